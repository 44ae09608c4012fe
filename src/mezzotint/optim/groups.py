"""Named parameter groups: which weights decay, and what every group remembers.

Each group has `params` and, in the same order, `param_names`, so that a checkpoint can be matched by name; `base_lr`,
which schedules multiply; and `excluded`, which says whether it holds the norms and biases that are left out of weight
decay and of LARS.
"""

from typing import Any, Literal

from torch import Tensor, nn

Exclude = Literal["none", "norm_and_bias"]
Group = dict[str, Any]


def is_norm_or_bias(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a bias or the scale of a norm: at most one dimension, or the name `bias`."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


def named_groups(model: nn.Module, *, lr: float, weight_decay: float, exclude: Exclude) -> list[Group]:
    """Split the parameters that take gradients into those that decay and those that do not.

    Args:
        model: parameters with `requires_grad` false (momentum copies, frozen layers) are left out.
        lr: base learning rate of all groups.
        weight_decay: of the first group; the excluded one has 0.
        exclude: `"norm_and_bias"` makes a group of them; `"none"` lets everything decay.

    Returns:
        One or two groups as `torch.optim` takes them; `params` holds (name, parameter) pairs, of which torch makes
        `params` and `param_names`.

    Raises:
        ValueError: when nothing can be trained.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameter that takes gradients; set requires_grad on what is to be trained")
    left_out = {name for name, p in trained if exclude == "norm_and_bias" and is_norm_or_bias(name, p)}
    groups = []
    for excluded in (False, True):
        chosen = [(name, p) for name, p in trained if (name in left_out) is excluded]
        if chosen:
            decay = 0.0 if excluded else weight_decay
            settings = {"lr": lr, "base_lr": lr, "weight_decay": decay, "excluded": excluded}
            groups.append({"params": chosen, **settings})
    return groups
