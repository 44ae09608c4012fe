"""muP: hyperparameters that are tuned on a narrow model suit a wide one.

from mezzotint.optim import mup

mup.set_base_shapes(model, base, delta=delta)
optimizer = mup.MuAdamW(model, lr=3e-3)
"""

from mezzotint.optim.mup import coord_check as coord_check
from mezzotint.optim.mup import init as init
from mezzotint.optim.mup.optimizers import MuAdam as MuAdam
from mezzotint.optim.mup.optimizers import MuAdamW as MuAdamW
from mezzotint.optim.mup.optimizers import MuSGD as MuSGD
from mezzotint.optim.mup.optimizers import keep_ratios as keep_ratios
from mezzotint.optim.mup.parametrization import set_base_shapes as set_base_shapes
from mezzotint.optim.mup.readout import MuReadout as MuReadout
from mezzotint.optim.mup.readout import MuSharedReadout as MuSharedReadout
from mezzotint.optim.mup.readout import make_readout as make_readout
from mezzotint.optim.mup.shapes import BaseShapes as BaseShapes
from mezzotint.optim.mup.shapes import get_base_shapes as get_base_shapes
from mezzotint.optim.mup.shapes import load_base_shapes as load_base_shapes
from mezzotint.optim.mup.shapes import make_base_shapes as make_base_shapes
from mezzotint.optim.mup.shapes import save_base_shapes as save_base_shapes
