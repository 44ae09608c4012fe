"""An optimizer's state as named tensors, and back: what a checkpoint stores without pickling anything."""

from typing import Any

import torch
from torch import Tensor


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's parameters by name; each group lists its names in `param_names`."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every state tensor under `parameter/entry`; numbers become tensors of no dimension, `None` is left out."""
    found: dict[str, Tensor] = {}
    for name, parameter in _named(optimizer).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{name}/{entry}"] = (
                    value if isinstance(value, Tensor) else torch.tensor(value)
                )
    return found


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` returned.

    Raises:
        ValueError: when a name belongs to no parameter of this optimizer.
    """
    named = _named(optimizer)
    state: dict[Tensor, dict[str, Any]] = {}
    for key, value in saved.items():
        name, _, entry = key.rpartition("/")
        if name not in named:
            raise ValueError(
                f"the checkpoint holds optimizer state of {name!r}, which the method has not; use the run's recipe"
            )
        parameter = named[name]
        moment = value.shape == parameter.shape
        # Moments share their parameter's memory format, as when the optimizer made them, so that
        # sums stay bit-equal.
        placed = torch.empty_like(parameter).copy_(value) if moment else value.clone()
        state.setdefault(parameter, {})[entry] = placed
    optimizer.state.clear()
    optimizer.state.update(state)
