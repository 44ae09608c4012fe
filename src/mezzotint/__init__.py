"""Mezzotint: self-supervised pretraining with quantization as its one idea.

The public names are imported when they are first used, so that `mezzotint --help` does not wait for
torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

_HOME = {
    "RandomizedQuantization": "augment.randomized_quantization.transform",
    "randomized_quantize": "augment.randomized_quantization.transform",
    "load_encoder": "encoders.saving",
    "save_encoder": "encoders.saving",
    "pretrain": "train.loop",
    "Recipe": "recipe.recipe",
    "evaluate": "runs.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mezzotint' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mezzotint.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
