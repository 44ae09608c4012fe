"""Ways to train an encoder without labels, one paper a file."""

from mezzotint.methods.byol import BYOL as BYOL
from mezzotint.methods.lejepa import LeJEPA as LeJEPA
from mezzotint.methods.moco import MoCo as MoCo
from mezzotint.methods.mocov3 import MoCoV3 as MoCoV3
from mezzotint.methods.simclr import SimCLR as SimCLR
from mezzotint.methods.simsiam import SimSiam as SimSiam
from mezzotint.methods.ssql import SSQL as SSQL
