"""An optimizer's state as named tensors, and back, so that checkpoints need no pickle."""

from typing import Any

import torch
from torch import Tensor


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Map names of `param_names` to the optimizer's parameters."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return state tensors as `parameter/entry`; numbers become scalars, `None` is left out."""
    state: dict[str, Tensor] = {}
    for name, parameter in _named(optimizer).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                state[f"{name}/{entry}"] = (
                    value if isinstance(value, Tensor) else torch.tensor(value)
                )
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Load the tensors that `optimizer_state` returned.

    Raises:
        ValueError: for a name that belongs to no parameter of this optimizer.
    """
    named = _named(optimizer)
    state: dict[Tensor, dict[str, Any]] = {}
    for key, value in saved.items():
        name, _, entry = key.rpartition("/")
        if name not in named:
            raise ValueError(
                f"The checkpoint has optimizer state of {name!r}, but the method has no such "
                "parameter. Use the recipe of the run."
            )
        parameter = named[name]
        moment = value.shape == parameter.shape
        # Moments share their parameter's memory format, as when the optimizer made them, so that
        # sums stay bit-equal.
        placed = torch.empty_like(parameter).copy_(value) if moment else value.clone()
        state.setdefault(parameter, {})[entry] = placed
    optimizer.state.clear()
    optimizer.state.update(state)
