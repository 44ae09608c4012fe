"""Mezzotint: self-supervised pretraining with quantization as its one idea.

The public names are imported when they are first used, so that `mezzotint --help` does not wait for
torch.
"""

from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names
from mezzotint._telemetry import switch_off
from mezzotint._version import __version__ as __version__

if TYPE_CHECKING:
    from mezzotint.augment.randomized_quantization.transform import (
        RandomizedQuantization as RandomizedQuantization,
    )
    from mezzotint.augment.randomized_quantization.transform import (
        randomized_quantize as randomized_quantize,
    )
    from mezzotint.encoders.saving import load_encoder as load_encoder
    from mezzotint.encoders.saving import save_encoder as save_encoder
    from mezzotint.recipe.recipe import Recipe as Recipe
    from mezzotint.runs.evaluate import evaluate as evaluate
    from mezzotint.train.loop import pretrain as pretrain

switch_off()
__getattr__, __dir__ = lazy_names(__name__, __file__)
