"""How other projects name what is in their checkpoints.

A layout says under which prefixes its trained network and its momentum copy stand, and how its
names are to be read where they are not the architecture's own. What a file has beside the network
(projectors, predictors, classifiers, optimizers) is left where it is.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Layout = Literal[
    "auto", "plain", "mocov3", "randquant", "airl", "ssql", "massrl", "solo", "lightly", "vissl", "byol_a", "timm",
    "torchvision",
]  # fmt: skip
Branch = Literal["auto", "online", "target"]

COPIES = ("encoder_k", "momentum", "target", "teacher", "ema", "key_encoder")
"""Words that name a momentum copy, whatever the project."""


def _same(name: str) -> str:
    return name


def from_ssql(name: str) -> str:
    """`layer1.0.conv1.bn_function.weight` → `layer1.0.bn1.weight`; a shortcut is a convolution and a norm in order."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        below = parts[place + 1] if place + 1 < len(parts) else ""
        if part.startswith("conv") and below == "bn_function":
            return ".".join([*parts[:place], f"bn{part.removeprefix('conv')}", *parts[place + 2 :]])
        if part == "downsample" and not below.isdigit():
            rest = (
                ["1", *parts[place + 2 :]] if below == "bn_function" else ["0", *parts[place + 1 :]]
            )
            return ".".join([*parts[: place + 1], *rest])
    return name


_NUMBERED = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def from_numbered(name: str) -> str:
    """`backbone.4.0.conv1.weight` → `backbone.layer1.0.conv1.weight`: torchvision's children in a `Sequential`."""
    found = re.fullmatch(r"(.*?backbone\w*\.)(\d+)\.(.+)", name)
    if found is None or found[2] not in _NUMBERED:
        return name
    return f"{found[1]}{_NUMBERED[found[2]]}.{found[3]}"


@dataclass(frozen=True)
class Names:
    """The names of one project.

    Attributes:
        online: words of which the trained network's prefix has one; empty where it may have none.
        target: words of the momentum copy's prefix.
        rename: from its names to the architecture's.
        dropped: what is left out before anything is looked for, by the reason that is reported.
    """

    online: tuple[str, ...] = ()
    target: tuple[str, ...] = COPIES
    rename: Callable[[str], str] = _same
    dropped: Mapping[str, str] = field(default_factory=dict)


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
    "timm": Names(),
    "torchvision": Names(),
}

_SIGNS = (
    ("ssql", re.compile(r"bn_function|weight_quantizer")),
    ("vissl", re.compile(r"_feature_blocks\.")),
    ("mocov3", re.compile(r"(^|\.)base_encoder\.")),
    ("airl", re.compile(r"(^|\.)(online_encoder|student_encoder)\.")),
    ("lightly", re.compile(r"(^|\.)backbone\w*\.\d+\.")),
    ("solo", re.compile(r"(^|\.)momentum_(backbone|encoder)\.")),
)


def recognize(names: Mapping[str, Any]) -> str:
    """The layout of a file by its names; `plain` where nothing tells."""
    return next(
        (layout for layout, sign in _SIGNS if any(sign.search(name) for name in names)), "plain"
    )


def prefixes(names: Mapping[str, Tensor], layout: str, branch: Branch) -> Iterator[str]:
    """Prefixes that may hold the wanted network: a trained one before its copy, short ones first."""
    known = LAYOUTS[layout]
    seen: set[str] = set()
    for name in names:
        parts = name.split(".")
        seen.update(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    for prefix in ["", *sorted(seen, key=lambda p: (_has(p, (*known.target, *COPIES)), len(p), p))]:
        copied = _has(prefix, (*known.target, *COPIES))
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


def guess(tensors: Mapping[str, Tensor], layout: str = "auto") -> dict[str, Any] | None:
    """The `encoder` section of the residual network that a file holds; `None` when it holds none that is known.

    Args:
        tensors: of the file.
        layout: how its names are to be read.
    """
    rename = LAYOUTS[recognize(tensors) if layout == "auto" else layout].rename
    named = {rename(name): t for name, t in tensors.items()}
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
