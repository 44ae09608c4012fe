"""Layouts: how other projects name the tensors of their checkpoints.

A layout gives the prefixes of the trained network and of its momentum copy, and renames tensors
whose names differ from the architecture's. Projectors, predictors, classifiers and optimizers of a
file are not read.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from mezzotint.interop.vit import recognize_vit

Layout = Literal[
    "auto", "plain", "mocov3", "randquant", "airl", "ssql", "massrl", "solo", "lightly", "vissl",
    "byol_a", "bridle", "mae", "dino", "timm", "torchvision",
]  # fmt: skip
Branch = Literal["auto", "online", "target"]

MOMENTUM_WORDS = ("encoder_k", "momentum", "target", "teacher", "ema", "key_encoder")
"""Words in the prefixes of momentum copies, in any project."""


def _same(name: str) -> str:
    return name


def from_ssql(name: str) -> str:
    """`layer1.0.conv1.bn_function.weight` → `layer1.0.bn1.weight`; likewise for shortcuts."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        below = parts[index + 1] if index + 1 < len(parts) else ""
        if part.startswith("conv") and below == "bn_function":
            return ".".join([*parts[:index], f"bn{part.removeprefix('conv')}", *parts[index + 2 :]])
        if part == "downsample" and not below.isdigit():
            rest = (
                ["1", *parts[index + 2 :]] if below == "bn_function" else ["0", *parts[index + 1 :]]
            )
            return ".".join([*parts[: index + 1], *rest])
    return name


_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def from_numbered(name: str) -> str:
    """`backbone.4.0.conv1.weight` → `backbone.layer1.0.conv1.weight`, as in a `Sequential`."""
    match = re.fullmatch(r"(.*?backbone\w*\.)(\d+)\.(.+)", name)
    if match is None or match[2] not in _NUMBERED:
        return name
    return f"{match[1]}{_NUMBERED[match[2]]}.{match[3]}"


@dataclass(frozen=True)
class Names:
    """The names of one project.

    Attributes:
        online: words of the trained network's prefix, at least one must occur; empty if there may
            be none.
        target: words of the momentum copy's prefix.
        rename: function from its names to the architecture's.
        dropped: patterns of tensors that are ignored, with the reported reason.
        frames_first: whether spectrograms have time as their first axis.
    """

    online: tuple[str, ...] = ()
    target: tuple[str, ...] = MOMENTUM_WORDS
    rename: Callable[[str], str] = _same
    dropped: Mapping[str, str] = field(default_factory=dict)
    frames_first: bool = False


_QUANTIZERS = {
    r".*quantizer\.weight": "second copies of weights",
    r".*quantizer.*": "states of quantizers",
}
LAYOUTS: Mapping[str, Names] = {
    "plain": Names(),
    "mocov3": Names(("base_encoder",), ("momentum_encoder",)),
    "randquant": Names(("base_encoder", "online_encoder"), ("momentum_encoder", "target_encoder")),
    "airl": Names(
        ("online_encoder", "encoder_q", "student_encoder"),
        ("target_encoder", "encoder_k", "teacher_encoder"),
    ),
    "ssql": Names((), ("encoder_k", "teacher"), from_ssql, _QUANTIZERS),
    "massrl": Names(("encoder", "backbone"), ("momentum_encoder", "momentum_backbone")),
    "solo": Names(("backbone", "encoder"), ("momentum_backbone", "momentum_encoder")),
    "lightly": Names(("backbone",), ("backbone_momentum", "teacher", "target"), from_numbered),
    "vissl": Names(("_feature_blocks", "trunk")),
    "byol_a": Names(),
    "bridle": Names(("encoder_decoder",), frames_first=True),
    "mae": Names(frames_first=True),
    "dino": Names(("student",), ("teacher",)),
    "timm": Names(),
    "torchvision": Names(),
}

_SIGNS = (
    ("ssql", re.compile(r"bn_function|weight_quantizer")),
    ("bridle", re.compile(r"(^|\.)encoder_decoder\.")),
    ("mae", re.compile(r"(^|\.)decoder_blocks\.")),
    ("dino", re.compile(r"^student\.")),
    ("vissl", re.compile(r"_feature_blocks\.")),
    ("mocov3", re.compile(r"(^|\.)base_encoder\.")),
    ("airl", re.compile(r"(^|\.)(online_encoder|student_encoder)\.")),
    ("lightly", re.compile(r"(^|\.)backbone\w*\.\d+\.")),
    ("solo", re.compile(r"(^|\.)momentum_(backbone|encoder)\.")),
)


def recognize(names: Mapping[str, Any]) -> str:
    """Recognize the layout of a file by its names; `plain` by default."""
    return next(
        (layout for layout, sign in _SIGNS if any(sign.search(name) for name in names)), "plain"
    )


def prefixes(names: Mapping[str, Tensor], layout: str, branch: Branch) -> Iterator[str]:
    """Yield possible prefixes of the network: trained ones before copies, short ones first."""
    known = LAYOUTS[layout]
    candidates: set[str] = set()
    for name in names:
        parts = name.split(".")
        candidates.update(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    for prefix in [
        "",
        *sorted(candidates, key=lambda p: (_has(p, (*known.target, *MOMENTUM_WORDS)), len(p), p)),
    ]:
        copied = _has(prefix, (*known.target, *MOMENTUM_WORDS))
        if branch == "target" and not _has(prefix, known.target):
            continue
        if branch == "online" and copied:
            continue
        if branch != "target" and known.online and not copied and not _has(prefix, known.online):
            continue
        yield prefix


def _has(prefix: str, words: tuple[str, ...]) -> bool:
    return any(word in prefix for word in words)


_RESNETS = {
    ((1, 1, 1), False): "resnet8",
    ((1, 1, 1, 1), False): "resnet10",
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}
_STEMS = {7: "imagenet", 3: "small", 4: "patch"}


def recognize_encoder(tensors: Mapping[str, Tensor], layout: str = "auto") -> dict[str, Any] | None:
    """Recognize the encoder of a file, as the `encoder` section of a recipe.

    Args:
        tensors: tensors of the file.
        layout: layout of its names.

    Returns:
        A ResNet, a ViT or BYOL-A's network, with its widths and depths; `None` for others.
    """
    layout = recognize(tensors) if layout == "auto" else layout
    named = {LAYOUTS[layout].rename(name): t for name, t in tensors.items()}
    return _resnet(named) or recognize_vit(named, layout) or _audio_ntt(named)


def _audio_ntt(named: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Recognize AudioNTT: v1 has three convolutions; v2 two, which it joins with the features."""
    kernels = [named.get(f"features.{4 * i}.weight") for i in range(4)]
    blocks = next(i for i, kernel in enumerate([*kernels, None]) if kernel is None)
    first, last = named.get("fc.0.weight"), named.get("fc.3.weight")
    if blocks not in (2, 3) or kernels[0] is None or first is None or last is None:
        return None
    join = blocks == 2
    known = {"kind": "audio_ntt", "dim": last.shape[0] + (first.shape[1] if join else 0)}
    known |= {"width": kernels[0].shape[0], "blocks": blocks}
    hidden = None if first.shape[0] == known["dim"] else first.shape[0]
    return known | {"hidden": hidden, "join": join}


def _resnet(named: Mapping[str, Tensor]) -> dict[str, Any] | None:
    for prefix in (
        name.removesuffix("conv1.weight") for name in named if name.endswith("conv1.weight")
    ):
        if f"{prefix}layer1.0.conv1.weight" not in named:
            continue
        depths: list[int] = []
        while f"{prefix}layer{len(depths) + 1}.0.conv1.weight" in named:
            stage = f"{prefix}layer{len(depths) + 1}"
            depths.append(
                next(n for n in range(1, 100) if f"{stage}.{n}.conv1.weight" not in named)
            )
        stem = named[f"{prefix}conv1.weight"]
        kind = _RESNETS.get((tuple(depths), f"{prefix}layer1.0.conv3.weight" in named))
        if kind is not None and stem.ndim == 4 and stem.shape[-1] in _STEMS:
            return {"kind": kind, "stem": _STEMS[stem.shape[-1]], "width": stem.shape[0]}
    return None
