"""Ways to train an encoder without labels, one paper a file; and their losses as functions."""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names

if TYPE_CHECKING:
    from mezzotint.methods.bridle import BRIDLE as BRIDLE
    from mezzotint.methods.bridle import BRIDLEJoint as BRIDLEJoint
    from mezzotint.methods.bridle import BRIDLETokenizer as BRIDLETokenizer
    from mezzotint.methods.byol import BYOL as BYOL
    from mezzotint.methods.byol import squared_distance as squared_distance
    from mezzotint.methods.dino import DINO as DINO
    from mezzotint.methods.distill import Distill as Distill
    from mezzotint.methods.embedding_quantization import (
        EmbeddingQuantization as EmbeddingQuantization,
    )
    from mezzotint.methods.emix import EMix as EMix
    from mezzotint.methods.lejepa import LeJEPA as LeJEPA
    from mezzotint.methods.lejepa import sigreg as sigreg
    from mezzotint.methods.mae import MAE as MAE
    from mezzotint.methods.method import Method as Method
    from mezzotint.methods.moco import MoCo as MoCo
    from mezzotint.methods.moco import queue_contrast as queue_contrast
    from mezzotint.methods.mocov3 import MoCoV3 as MoCoV3
    from mezzotint.methods.shed import ShED as ShED
    from mezzotint.methods.siamese import Siamese as Siamese
    from mezzotint.methods.siamese import collapse_signals as collapse_signals
    from mezzotint.methods.siamese import each_view as each_view
    from mezzotint.methods.siamese import one_pass as one_pass
    from mezzotint.methods.simclr import SimCLR as SimCLR
    from mezzotint.methods.simclr import nt_xent as nt_xent
    from mezzotint.methods.simsiam import SimSiam as SimSiam
    from mezzotint.methods.simsiam import negative_cosine as negative_cosine
    from mezzotint.methods.ssql import SSQL as SSQL
    from mezzotint.methods.supervised import Supervised as Supervised
    from mezzotint.methods.tokenizer import ColdStart as ColdStart
    from mezzotint.methods.tokenizer import LearnedTokenizer as LearnedTokenizer
    from mezzotint.methods.tokenizer import Tokenizer as Tokenizer

__getattr__, __dir__ = lazy_names(__name__, __file__)
