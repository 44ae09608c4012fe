"""The parameters that were drawn for views, as what can be predicted: numbers, and choices among a few."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.augment.image.operations import NAMES, OPERATIONS
from mezzotint.augment.transform import Params

_MOST = 64
"""A parameter with more numbers a sample is noise, which nobody would predict number by number."""
_SWITCHES = ("chosen", "applied")
_LEFT_OUT = (*_SWITCHES, "policy", "order", "center", "op", "magnitude")


@dataclass(frozen=True)
class Drawn:
    """One parameter over many views.

    Attributes:
        values: numbers, float64 `[N, K]`; or which of a few was chosen, int64 `[N]`.
        there: bool `[N]`, the views that it means something for: a brightness was only applied
            where the jitter was.
    """

    values: Tensor
    there: Tensor

    @property
    def is_choice(self) -> bool:
        """Whether it is a choice rather than a number."""
        return not self.values.is_floating_point()


def drawn_values(drawn: Mapping[str, Params], boxes: Tensor | None) -> dict[str, Drawn]:
    """The parameters of one view of N samples.

    Args:
        drawn: by step, as `ViewGenerator.draw` gives them.
        boxes: `[N, 4]`: top, left, height and width of the crop as shares of the image; `None`
            without crops.

    Returns:
        By name: `crop.area`, `crop.down`, `crop.across` (of its center) and `crop.stretch`
            (logarithm of width by
        height); a transform's own name for whether it was applied; `transform.parameter` for its
        numbers; of strategies the operations. What was the same for all is among them, too.
    """
    count = len(next(iter(next(params for params in drawn.values() if params).values())))
    always = torch.ones(count, dtype=torch.bool)
    found: dict[str, Drawn] = {}
    if boxes is not None:
        top, left, height, width = boxes.double().unbind(1)
        place = {"area": height * width, "down": top + height / 2, "across": left + width / 2}
        for name, values in {**place, "stretch": (width / height).log()}.items():
            found[f"crop.{name}"] = Drawn(values.unsqueeze(1), always)
    for step, params in drawn.items():
        if step != "crop" or boxes is None:
            _collect(step.rpartition(".")[2], params, always, found)
    return found


def _collect(
    name: str, params: Params, there: Tensor, found: dict[str, Drawn], within: str = ""
) -> None:
    """Parameters of a transform, or of a policy's under `place.kind.name`, of which a sample may have drawn one.

    Args:
        name: of the transform or policy.
        params: its parameters.
        there: bool `[N]`, the samples that it was applied to.
        found: is filled.
        within: stands before the names of the transforms of a policy that was chosen among several.
    """
    own = {key: value for key, value in params.items() if "." not in key}
    inner: dict[tuple[str, str], Params] = {}
    for key, value in params.items():
        if "." in key:
            place, kind, rest = key.split(".", 2)
            inner.setdefault((place, kind), {})[rest] = value
    choice = own.get("policy")
    if choice is not None:
        found[f"{within}strategy"] = Drawn(choice, there)
    for (place, kind), nested in inner.items():
        if choice is None:
            _collect(f"{within}{kind}", nested, there, found, within)
        else:
            _collect(
                f"{within}{kind}", nested, there & (choice == int(place)), found, f"{within}{kind}."
            )
    if "op" in own:
        _operations(name, own, there, found)
    for switch in _SWITCHES:
        if switch in own:
            found[name] = Drawn(own[switch].long(), there)
            there = there & own[switch]
    for key, value in own.items():
        numbers = value.double().flatten(1) if value.ndim > 1 else value.double().unsqueeze(1)
        if key not in _LEFT_OUT and numbers.shape[1] <= _MOST:
            found[f"{name}.{key}"] = Drawn(numbers, there)


def _operations(name: str, params: Params, there: Tensor, found: dict[str, Drawn]) -> None:
    """Of each operation whether it was drawn, and the sum of its magnitudes where it was."""
    for place, operation in enumerate(NAMES):
        drawn = params["op"] == place
        if operation == "identity" or not bool((drawn.any(dim=1) & there).any()):
            continue
        found[f"{name}.{operation}"] = Drawn(drawn.any(dim=1).long(), there)
        if OPERATIONS[operation].magnitude:
            total = (params["magnitude"].double() * drawn).sum(dim=1, keepdim=True)
            found[f"{name}.{operation}.magnitude"] = Drawn(total, there & drawn.any(dim=1))


def joined(parts: list[dict[str, Drawn]]) -> dict[str, Drawn]:
    """The parameters of several batches or views, one after the other; none is there where a view has no such one.

    Args:
        parts: of equal length each, as `drawn_values` returns them.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [len(next(iter(part.values())).there) for part in parts]
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
            torch.cat([c.values for c in columns]), torch.cat([c.there for c in columns])
        )
    return made


def varies(drawn: Drawn, rows: Tensor, least: int) -> bool:
    """Whether a parameter is there often enough among some views, and differs among them.

    Args:
        drawn: the parameter.
        rows: bool `[N]`, the views in question.
        least: of views; of choices, of each that was drawn at all.
    """
    values = drawn.values[drawn.there & rows]
    if len(values) < least:
        return False
    if drawn.is_choice:
        counts = torch.bincount(values)
        return int((counts > 0).sum()) > 1 and int(counts[counts > 0].min()) >= math.ceil(least / 4)
    return bool((values.std(dim=0) > 1e-9).any())
