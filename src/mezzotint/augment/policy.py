"""What is done to a view after its crop and flip: transforms one after the other, or one of several policies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Compose, Params, Transform
from mezzotint.seeding import Draws


class Policy(Compose):
    """Transforms one after the other, applied to a view after its crop and flip.

    Args:
        transforms: in order; parameters are drawn apart for each.
    """

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)


class Chain(Policy):
    """Any transforms in order, other policies among them.

    Args:
        transforms: such as `rand_augment`, then `random_erasing`.
    """

    def __init__(self, *, transforms: list[Transform]) -> None:
        super().__init__(transforms=transforms)


class Choice(Policy):
    """For each sample one of several policies, drawn uniformly.

    Args:
        policies: to choose from; the transforms of each are applied in order.
    """

    def __init__(self, *, policies: list[Policy]) -> None:
        if not policies:
            raise ValueError("got no policies; allowed is one or more: give a list such as [{kind: simclr}]")
        super().__init__(transforms=list(policies))

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`policy`, int64 `[B]`, and the parameters of each policy under `place.kind.name`.

        They are drawn for the samples that chose it; the rows of the others are zero.
        """
        choice = draws.integers("policy", high=len(self.transforms))
        params: Params = {"policy": choice}
        for place, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (choice == place).nonzero().squeeze(1)
            own = Draws(draws.ids[rows], draws.key).fold(name)
            for key, value in policy.draw((len(rows), *shape[1:]), own).items():
                full = value.new_zeros(len(choice), *value.shape[1:])
                params[f"{name}.{key}"] = full.index_copy_(0, rows, value)
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Change each sample by the policy that it drew."""
        parts, order = [], []
        for place, (name, policy) in enumerate(zip(self.names(), self.transforms, strict=True)):
            rows = (params["policy"] == place).nonzero().squeeze(1)
            if len(rows):
                prefix = f"{name}."
                own = {k.removeprefix(prefix): v[rows] for k, v in params.items() if k.startswith(prefix)}
                parts.append(policy.apply(x if len(rows) == len(x) else x.index_select(0, rows), own))
                order.append(rows)
        if len(parts) < 2:
            return parts[0] if parts else x
        return torch.cat(parts).index_select(0, torch.cat(order).argsort())
