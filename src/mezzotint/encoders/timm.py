"""Any network of timm as an encoder; nothing is ever downloaded.

timm (Wightman, github.com/huggingface/pytorch-image-models) has about 1,300 image networks. The
adapter builds one without its classifier, for the channels of the input and, if the network depends
on it, its size. Weights come from a local file, which is read without running pickled code.
"""

import difflib
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import factory
from mezzotint.types import Input


class TimmEncoder(Encoder):
    """A network of timm without its classifier.

    Args:
        input: of images.
        model: built with `num_classes=0`, so that it returns pooled features.
        dim: number of features.
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
                f"timm's {type(self.model).__name__} must return [batch, features], got "
                f"{list(out.shape)}. Choose a variant that pools; its name does not end in _enc."
            )
        return out

    def map_layer(self) -> tuple[nn.Module, bool]:
        pools = [m for m in self.model.modules() if type(m).__name__ == "SelectAdaptivePool2d"]
        if pools:
            return pools[-1], True
        norm = getattr(self.model, "norm", None)
        if not isinstance(norm, nn.Module) or not hasattr(self.model, "patch_embed"):
            return super().map_layer()
        return norm, False

    def as_map(self, values: Tensor, x: Tensor) -> Tensor:
        """Maps of convolutions as they are; channels last, and tokens, → `[B, D, h, w]`."""
        if values.ndim == 4:
            is_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            return values.permute(0, 3, 1, 2) if is_last else values
        embed: Any = self.model.get_submodule("patch_embed")
        grid = [n // p for n, p in zip(x.shape[2:], embed.patch_size, strict=True)]
        found: Tensor = values[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid)
        return found


@factory
def timm(
    input: Input,
    *,
    name: str,
    pretrained_path: str | None = None,
    drop_path: float = 0.0,
    dynamic_size: bool = False,
) -> TimmEncoder:
    """Encode images by any network of timm, by its name there.

    Args:
        input: of images.
        name: name in timm, such as `resnet18`, `vit_small_patch16_224` or `convnext_tiny`; a tag
            after a dot has no effect, because weights are never downloaded.
        pretrained_path: checkpoint of the network to start from (safetensors, or a torch file of
            tensors).
        drop_path: probability of dropping a residual branch (stochastic depth).
        dynamic_size: let a ViT take images of any size, for crops of several sizes; convolutional
            networks always do.

    Raises:
        ValueError: when timm is missing, has no such network, or cannot build it with these keys or
            for this image size.
    """
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(
            f"`encoder.drop_path` must be 0 or more and below 1, got {drop_path}. Try 0.1."
        )
    TimmEncoder.require_modality(input)
    library = _library()
    if not library.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], library.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"`encoder.name` must be a network of timm {library.__version__}, got {name!r}. "
            f"`timm.list_models()` lists them.{hint}"
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
            # The second build must not move the random state of the run.
            with torch.random.fork_rng(devices=[]):
                _require_all_loaded(model, library.create_model(name, **options), pretrained_path)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"timm cannot build {name!r} for images of shape {list(input.shape)}: {reason}. "
            "Change the keys of the encoder, the image size, or the network."
        ) from error
    encoder = TimmEncoder(input, model, _features(model))
    _require_size(encoder, name)
    return encoder


def _require_size(encoder: TimmEncoder, name: str) -> None:
    """Refuse an image size that the network cannot take, or whose edge it never sees.

    One image of zeros is encoded, which some networks refuse. Layers that cut the image into
    patches, as a convolution whose stride is its kernel does, leave out what is no whole patch.
    """
    channels, *sizes = encoder.input.shape
    sides: list[tuple[int, int]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and list(inputs[0].shape[-2:]) == sizes:
            if module.kernel_size == module.stride and module.padding == (0, 0):
                sides.append((module.stride[0], module.stride[1]))

    hooks = [module.register_forward_pre_hook(note) for module in encoder.modules()]
    training = encoder.training
    try:
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, channels, *sizes))
    except (RuntimeError, AssertionError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{name!r} of timm cannot take images of {sizes[0]} x {sizes[1]} pixels: {reason}. "
            "Change the image size, or the network."
        ) from error
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    for side in sides:
        rest = [size % length for size, length in zip(sizes, side, strict=True)]
        if any(rest):
            raise ValueError(
                f"{name!r} of timm cuts images into patches of {side[0]} x {side[1]} pixels, and "
                f"of {sizes[0]} x {sizes[1]} pixels {rest[0]} rows and {rest[1]} columns would "
                "never be seen. Choose a size that the patches divide."
            )


def _library() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ValueError(
            "The encoder `timm` needs the package timm, which is not installed. Run "
            "`pip install 'mezzotint[timm]'`, or choose another encoder."
        ) from error


def _depends_on_size(library: ModuleType, name: str) -> bool:
    config = library.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def _features(model: Any) -> int:
    """Return the number of pooled features, which some networks widen by `head_hidden_size`."""
    widened = getattr(model, "head_hidden_size", None)
    return int(model.num_features if widened is None else widened)


def _require_all_loaded(model: nn.Module, again: nn.Module, path: str) -> None:
    """Refuse a file that leaves weights at their random start: timm only logs missing tensors.

    Weights that differ between two builds are still random. Missing constants are not noticed.
    """
    random = [
        n
        for (n, a), b in zip(model.named_parameters(), again.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    if random:
        raise ValueError(
            f"`{path}` lacks {len(random)} of the network's tensors, the first is {random[0]!r}"
        )


def _weights(library: ModuleType, path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(
            f"`encoder.pretrained_path` must be a local .safetensors or .pth file, got {path!r}. "
            "Check the path, or omit it."
        )
    try:  # timm 1.0.11 runs pickled code without `weights_only`
        weights: dict[str, Tensor] = library.models.load_state_dict(path, weights_only=True)
    except Exception as error:  # noqa: B902 - pickle, zip and safetensors each raise their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"`encoder.pretrained_path` {path!r} cannot be read as tensors: {reason}. Convert it "
            "to a safetensors file."
        ) from error
    return weights
