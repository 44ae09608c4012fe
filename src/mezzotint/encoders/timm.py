"""Any network of timm as an encoder; nothing is ever downloaded.

timm (Wightman, github.com/huggingface/pytorch-image-models) holds some 1,300 image networks. The
adapter builds one without its classifier, for the input's channels and, where the network depends
on it, its size. Weights come from a file that is already there, and are read without pickle's code
execution.
"""

import difflib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.component import factory
from mezzotint.types import Input


class TimmEncoder(Encoder):
    """A network of timm without its classifier.

    Args:
        input: of images.
        model: made with `num_classes=0`, so that it returns pooled features.
        dim: of them.
    """

    modalities = frozenset({"image"})

    def __init__(self, input: Input, model: nn.Module, dim: int) -> None:
        super().__init__(input, dim)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, dim]`."""
        out: Tensor = self.model(x)
        if out.ndim != 2:
            raise ValueError(
                f"an encoder returns [B, dim], and timm's {type(self.model).__name__} returned {list(out.shape)}; "
                "choose a variant that pools (its name does not end in _enc)"
            )
        return out


@factory
def timm(
    input: Input,
    *,
    name: str,
    pretrained_path: str | None = None,
    drop_path: float = 0.0,
    dynamic_size: bool = False,
) -> TimmEncoder:
    """Any network of timm, by its name there.

    Args:
        input: of images.
        name: `resnet18`, `vit_small_patch16_224`, `convnext_tiny` …; a tag behind a dot is allowed
            and says nothing, since weights are never downloaded.
        pretrained_path: a checkpoint of the network (safetensors, or a torch file of tensors) to
            start from.
        drop_path: probability of leaving out a residual branch (stochastic depth).
        dynamic_size: let a ViT take images of any size, for crops of several sizes; convolutional
            networks do anyway.

    Raises:
        ValueError: when timm is missing, has no such network, or cannot build it so.
    """
    if not modality_of(input).is_picture:
        raise ValueError(
            f"timm's networks take images [C, H, W], got {input.modality} of shape {list(input.shape)}; "
            "choose an encoder of that modality"
        )
    library = _library()
    if not library.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], library.list_models(), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(
            f"timm {library.__version__} has no network {name!r}; allowed are the names of timm.list_models(){hint}"
        )
    channels, height, width = input.shape
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if drop_path > 0.0:
        options["drop_path_rate"] = drop_path
    if dynamic_size:
        options["dynamic_img_size"] = True
    if _depends_on_size(library, name):
        options["img_size"] = (height, width)
    if pretrained_path is not None:
        options |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": _weights(library, pretrained_path)},
        }
    try:
        model = library.create_model(name, **options)
        if pretrained_path is not None:
            with torch.random.fork_rng(devices=[]):
                _require_all_loaded(model, library.create_model(name, **options), pretrained_path)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"timm cannot build {name!r} for input {list(input.shape)}: {reason}; "
            "change the encoder's keys, the image size, or the network"
        ) from error
    return TimmEncoder(input, model, _features(model))


def _library() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ValueError(
            "the encoder kind 'timm' needs the package timm, which is not installed; "
            "pip install 'mezzotint[timm]', or choose another encoder"
        ) from error


def _depends_on_size(library: ModuleType, name: str) -> bool:
    config = library.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def _features(model: Any) -> int:
    """Width of the pooled output: some networks widen it after pooling, and say so in `head_hidden_size`."""
    widened = getattr(model, "head_hidden_size", None)
    return int(model.num_features if widened is None else widened)


def _require_all_loaded(model: nn.Module, again: nn.Module, path: str) -> None:
    """Refuse a file that left weights as initialized: timm skips what a file lacks, and says so in its log only.

    What differs between two builds is still random; constants that a file lacks are not noticed.
    """
    random = [
        n
        for (n, a), b in zip(model.named_parameters(), again.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    if random:
        raise ValueError(f"{path!r} lacks {len(random)} of its tensors, the first is {random[0]!r}")


def _weights(library: ModuleType, path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(
            f"pretrained_path {path!r} is no file; give a local .safetensors or .pth file, or leave it out"
        )
    try:  # timm 1.0.11 would run a pickle's code unless told not to
        weights: dict[str, Tensor] = library.models.load_state_dict(path, weights_only=True)
    except Exception as error:  # noqa: B902 - pickle, zip and safetensors each raise their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"pretrained_path {path!r} cannot be read as tensors: {reason}; give a safetensors file"
        ) from error
    return weights
