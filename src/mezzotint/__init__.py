"""Mezzotint: self-supervised pretraining with quantization as its one idea.

The public names are imported when they are first used, so that `mezzotint --help` does not wait for
torch.
"""

import os
import sys
from typing import TYPE_CHECKING

from mezzotint._lazy import lazy_names
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

# No telemetry. When it is imported, onnxruntime 1.31 writes a device number below HOME and looks up
# a host of its vendor; OpenVINO's converter and NNCF send events through a package that both do
# without when it cannot be imported.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__getattr__, __dir__ = lazy_names(__name__, __file__)
