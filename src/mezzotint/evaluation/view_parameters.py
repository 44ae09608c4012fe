"""The augmentation parameters of views as targets of a prediction: numbers, and choices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.augment.image.operations import NAMES, OPERATIONS
from mezzotint.augment.transform import Params

_MAX_NUMBERS = 64
"""A parameter with more numbers per sample is noise and is not predicted number by number."""
_SWITCHES = ("chosen", "applied")
_LEFT_OUT = (*_SWITCHES, "policy", "order", "center", "op", "magnitude")


@dataclass(frozen=True)
class Drawn:
    """One parameter over many views.

    Attributes:
        values: numbers, float64 `[N, K]`, or choices, int64 `[N]`.
        defined: bool `[N]`, the views in which it has a meaning: the brightness of a jitter has one
            only where the jitter was applied.
    """

    values: Tensor
    defined: Tensor

    @property
    def is_choice(self) -> bool:
        """Whether it is a choice and not a number."""
        return not self.values.is_floating_point()


def drawn_values(drawn: Mapping[str, Params], boxes: Tensor | None) -> dict[str, Drawn]:
    """Return the parameters of one view of N samples.

    Args:
        drawn: parameters by step, from `ViewGenerator.draw`.
        boxes: `[N, 4]`: top, left, height and width of the crop as fractions of the image; `None`
            without crops.

    Returns:
        By name: `crop.area`, `crop.down`, `crop.across` (of the center) and `crop.stretch` (log of
        width over height); a transform's name for whether it was applied; `transform.parameter` for
        its numbers; for augmentation policies their operations. Constant parameters are included.
    """
    count = len(next(iter(next(params for params in drawn.values() if params).values())))
    always = torch.ones(count, dtype=torch.bool)
    found: dict[str, Drawn] = {}
    if boxes is not None:
        top, left, height, width = boxes.double().unbind(1)
        crop = {"area": height * width, "down": top + height / 2, "across": left + width / 2}
        for name, values in {**crop, "stretch": (width / height).log()}.items():
            found[f"crop.{name}"] = Drawn(values.unsqueeze(1), always)
    for step, params in drawn.items():
        if step != "crop" or boxes is None:
            _collect(step.rpartition(".")[2], params, always, found)
    return found


def _collect(
    name: str, params: Params, defined: Tensor, found: dict[str, Drawn], within: str = ""
) -> None:
    """Collect the parameters of a transform, or of a policy's transforms, `index.kind.name`.

    Args:
        name: name of the transform or policy.
        params: its parameters.
        defined: bool `[N]`, the samples that it was applied to.
        found: dictionary to fill.
        within: prefix for the transforms of a policy that was chosen among several.
    """
    own = {key: value for key, value in params.items() if "." not in key}
    inner: dict[tuple[str, str], Params] = {}
    for key, value in params.items():
        if "." in key:
            position, kind, rest = key.split(".", 2)
            inner.setdefault((position, kind), {})[rest] = value
    choice = own.get("policy")
    if choice is not None:
        found[f"{within}policy"] = Drawn(choice, defined)
    for (position, kind), nested in inner.items():
        if choice is None:
            _collect(f"{within}{kind}", nested, defined, found, within)
        else:
            _collect(
                f"{within}{kind}",
                nested,
                defined & (choice == int(position)),
                found,
                f"{within}{kind}.",
            )
    if "op" in own:
        _operations(name, own, defined, found)
    for switch in _SWITCHES:
        if switch in own:
            found[name] = Drawn(own[switch].long(), defined)
            defined = defined & own[switch]
    for key, value in own.items():
        numbers = value.double().flatten(1) if value.ndim > 1 else value.double().unsqueeze(1)
        if key not in _LEFT_OUT and numbers.shape[1] <= _MAX_NUMBERS:
            found[f"{name}.{key}"] = Drawn(numbers, defined)


def _operations(name: str, params: Params, defined: Tensor, found: dict[str, Drawn]) -> None:
    """Collect whether each operation was drawn, and the sum of its magnitudes."""
    for index, operation in enumerate(NAMES):
        drawn = params["op"] == index
        if operation == "identity" or not bool((drawn.any(dim=1) & defined).any()):
            continue
        found[f"{name}.{operation}"] = Drawn(drawn.any(dim=1).long(), defined)
        if OPERATIONS[operation].magnitude:
            total = (params["magnitude"].double() * drawn).sum(dim=1, keepdim=True)
            found[f"{name}.{operation}.magnitude"] = Drawn(total, defined & drawn.any(dim=1))


def joined(parts: list[dict[str, Drawn]]) -> dict[str, Drawn]:
    """Concatenate the parameters of several batches or views; undefined where a view lacks one.

    Args:
        parts: parameters of each, from `drawn_values`.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [len(next(iter(part.values())).defined) for part in parts]
    made = {}
    for name in names:
        like = next(part[name] for part in parts if name in part)
        columns = [
            part.get(
                name,
                Drawn(
                    like.values.new_zeros(length, *like.values.shape[1:]),
                    torch.zeros(length).bool(),
                ),
            )
            for part, length in zip(parts, lengths, strict=True)
        ]
        made[name] = Drawn(
            torch.cat([c.values for c in columns]), torch.cat([c.defined for c in columns])
        )
    return made


def varies(drawn: Drawn, rows: Tensor, least: int) -> bool:
    """Return whether a parameter is defined in enough views, and differs among them.

    Args:
        drawn: the parameter.
        rows: bool `[N]`, the views to consider.
        least: smallest number of views; a quarter of it for each choice that was drawn at all.
    """
    values = drawn.values[drawn.defined & rows]
    if len(values) < least:
        return False
    if drawn.is_choice:
        counts = torch.bincount(values)
        return int((counts > 0).sum()) > 1 and int(counts[counts > 0].min()) >= math.ceil(least / 4)
    return bool((values.std(dim=0) > 1e-9).any())
