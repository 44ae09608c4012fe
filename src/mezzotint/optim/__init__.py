"""Optimizers, parameter groups and schedules."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.optim.groups import LayerScales as LayerScales
    from mezzotint.optim.muon import Muon as Muon
    from mezzotint.optim.optimizer import LARC as LARC
    from mezzotint.optim.optimizer import LARS as LARS
    from mezzotint.optim.optimizer import SGD as SGD
    from mezzotint.optim.optimizer import AdamW as AdamW
    from mezzotint.optim.optimizer import Optimizer as Optimizer
    from mezzotint.optim.schedules import Constant as Constant
    from mezzotint.optim.schedules import Cosine as Cosine
    from mezzotint.optim.schedules import MultiStep as MultiStep
    from mezzotint.optim.schedules import Polynomial as Polynomial
    from mezzotint.optim.schedules import Schedule as Schedule

__getattr__, __dir__ = lazy_names(__name__, __file__)
