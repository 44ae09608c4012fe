"""`MuSGD`, `MuAdam`, `MuAdamW`: torch's optimizers with the groups that muP asks for.

They are functions that split the parameter groups and return a stock optimizer; another class goes
in as `impl`. Pass the model, its parameters, or groups of them. Parameters of a copy
(`copy.deepcopy`, `AveragedModel`, a model that was pickled) are known through the model alone:
`MuAdam(model, lr=…)`.

Schedules that write a learning rate of their own into every group (`eta_min`, `max_lr`) undo muP.
The optimizers notice that at their next step; `keep_ratios` runs such a schedule as it should be.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mezzotint.optim.mup.rules import Group, Rule, adam, scaled_groups, sgd
from mezzotint.optim.mup.shapes import Growth, bare, by_identity, growth

Params = nn.Module | Iterable[Any]
_OTHER_RULES = {"muon", "lars", "larc", "lamb"}


def MuSGD(  # noqa: N802 - the name that users of the mup package know
    params: Params, impl: type[Any] = SGD, decoupled_wd: bool = False, **kwargs: Any
) -> Optimizer:
    """SGD, or an optimizer like it, scaled by muP.

    Args:
        params: the model, its parameters, its named parameters, or groups of them.
        impl: class of the optimizer, one whose step is proportional to the gradient.
        decoupled_wd: whether `impl` applies weight decay without the learning rate, so that it is
            not scaled.
        kwargs: of the class.

    Raises:
        ValueError: for parameters without a base shape.
    """
    return _build(params, impl, sgd, decoupled_wd, kwargs)


def MuAdam(  # noqa: N802
    params: Params,
    impl: type[Any] = Adam,
    decoupled_wd: bool = False,
    scale_eps: bool = True,
    **kwargs: Any,
) -> Optimizer:
    """Adam, or an optimizer like it, scaled by muP.

    Args:
        params: the model, its parameters, its named parameters, or groups of them.
        impl: class of the optimizer, one whose step does not depend on the gradient's size.
        decoupled_wd: whether `impl` applies weight decay without the learning rate, so that it is
            not scaled.
        scale_eps: scale `eps` like the gradients; the `mup` package leaves it as it is.
        kwargs: of the class.

    Raises:
        ValueError: for parameters without a base shape.
    """
    return _build(params, impl, adam, decoupled_wd, kwargs, scale_eps)


def MuAdamW(params: Params, lr: float | Tensor = 1e-3, **kwargs: Any) -> Optimizer:  # noqa: N802
    """AdamW scaled by muP; arguments as for `MuAdam`."""
    return MuAdam(params, impl=AdamW, lr=lr, **kwargs)


def _build(
    params: Params,
    impl: type[Any],
    rule: Rule,
    decoupled_wd: bool,
    kwargs: dict[str, Any],
    scale_eps: bool = False,
) -> Optimizer:
    if not callable(impl):
        raise TypeError(
            f"`impl` must be the class of an optimizer, got {impl!r}. Pass a rate by name, lr=…."
        )
    names = {base.__name__.lower() for base in getattr(impl, "__mro__", ())}
    if found := sorted(names & _OTHER_RULES):
        raise ValueError(
            f"`impl` must step like SGD or Adam, and {impl.__name__} is of the kind of "
            f"{found[0]}, whose steps depend on the norm of each weight. Of these, "
            "mezzotint.optim.Muon and LARS scale by their own rules: Muon(lr=…).build(model, 256)."
        )
    groups, of = _groups_and_growth(params)
    defaults = inspect.signature(impl).parameters
    keys = ["lr", "weight_decay", *(["eps"] if scale_eps else [])]
    for number, group in enumerate(groups):
        group["mup_group"] = number  # groups of one number were one group before
        for key in keys:
            stated = kwargs.get(key, defaults[key].default if key in defaults else None)
            if stated is not None and stated is not inspect.Parameter.empty:
                group.setdefault(key, stated)
    decays = [group.get("weight_decay") for group in groups]
    made = scaled_groups(groups, rule, of)
    if decoupled_wd:
        for group in made:
            group["weight_decay"] = decays[group["mup_group"]]
            group.pop("weight_decay_factor", None)
    optimizer: Optimizer = impl(made, **kwargs)
    optimizer.register_step_pre_hook(_require_ratios)
    return optimizer


def _groups_and_growth(
    params: Params,
) -> tuple[list[Group], Callable[[str | None, Tensor], Growth]]:
    if isinstance(params, nn.Module):
        known = {id(p): g for p, g in _grown_parameters(params)}
        params = [(name, p) for name, p in params.named_parameters() if p.requires_grad]
    else:
        known = {identity: grown for identity, (grown, _) in by_identity().items()}
        params = list(params)
    whole = params if params and isinstance(params[0], dict) else [{"params": params}]
    groups = []
    for group in whole:
        own = group["params"]
        groups.append({**group, "params": [own] if isinstance(own, Tensor) else list(own)})

    def of(name: str | None, parameter: Tensor) -> Growth:
        if id(parameter) not in known:
            raise ValueError(
                f"A parameter of shape {tuple(parameter.shape)} has no base shape. Call "
                "set_base_shapes on its model first, or pass the model itself: MuAdam(model, lr=…)."
            )
        return known[id(parameter)]

    return groups, of


def _grown_parameters(model: nn.Module) -> list[tuple[Tensor, Growth]]:
    grown = growth(model)
    if not grown:
        raise ValueError(
            "The model has no base shapes. Call set_base_shapes(model, base) before the optimizer."
        )
    plain = Growth("scalar")  # what was added later, such as a classifier, is as torch has it
    named = dict(model.named_parameters())
    return [(named[own], grown.get(name, plain)) for own, name in bare(named).items()]


def _require_ratios(optimizer: Optimizer, *_: Any) -> None:
    """Refuse a step with learning rates that a schedule has set without regard to the groups."""
    rates: dict[int, float] = {}
    for group in optimizer.param_groups:
        if "mup_group" not in group:
            raise ValueError(
                "A group of parameters came without muP's rates, by add_param_group or from the "
                "state of another optimizer. Make a new optimizer of all groups, such as "
                "MuAdam(groups, lr=…)."
            )
        if isinstance(group["lr"], Tensor):  # reading it would wait for the device
            return
        rate = group["lr"] / group.get("lr_factor", 1.0)
        first = rates.setdefault(group["mup_group"], rate)
        if abs(rate - first) > 1e-6 * max(abs(rate), abs(first)):
            raise ValueError(
                "The learning rates of the groups are no longer in muP's ratios: a schedule has "
                "set absolute ones, such as `eta_min` or `max_lr`. Pass the schedule through "
                "keep_ratios, which applies it to all groups alike."
            )


class keep_ratios:  # noqa: N801 - used like a function
    """Run any of torch's schedules so that the ratios between the groups stay.

    The schedule drives one learning rate, that of parameters without a width; each group's follows
    in proportion.

        schedule = keep_ratios(optimizer, CosineAnnealingLR, T_max=100, eta_min=1e-4)

    Args:
        optimizer: a MuSGD, MuAdam or MuAdamW.
        schedule: class of the schedule.
        kwargs: of the class.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Callable[..., LRScheduler], **kwargs: Any
    ) -> None:
        self.optimizer = optimizer
        ratios = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        first = optimizer.param_groups[0]
        self.reference = float(first["lr"]) / ratios[0]
        if self.reference == 0.0:
            raise ValueError(
                "The learning rate is 0, so the groups have no ratios. Make the schedule of an "
                "optimizer with a positive rate."
            )
        self.ratios = [float(g["lr"]) / self.reference for g in optimizer.param_groups]
        self.driver: Optimizer
        nothing = [torch.zeros(1)]
        if "betas" in first:
            self.driver = Adam(nothing, lr=self.reference, betas=first["betas"])
        else:
            self.driver = SGD(nothing, lr=self.reference, momentum=first.get("momentum", 0.0))
        driven = self.driver.param_groups[0]
        self._before = {key: driven[key] for key in ("momentum", "betas") if key in driven}
        self._moved: set[str] = set()
        self.schedule = schedule(self.driver, **kwargs)
        self._apply()

    def step(self, *args: Any) -> None:
        """Go on by one step of the schedule."""
        self.driver.step()  # torch warns of schedules that step before their optimizer
        self.schedule.step(*args)
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """State of the schedule, and the rate and momentum that it has set."""
        driven = {k: v for k, v in self.driver.param_groups[0].items() if k != "params"}
        return {"schedule": self.schedule.state_dict(), "driven": driven}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state of the schedule."""
        self.schedule.load_state_dict(state["schedule"])
        self.driver.param_groups[0].update(state["driven"])
        self._apply()

    def _apply(self) -> None:
        driven = self.driver.param_groups[0]
        # OneCycleLR moves momentum too; any other schedule leaves each group its own.
        self._moved |= {key for key, value in self._before.items() if driven[key] != value}
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            if isinstance(group["lr"], Tensor):  # a captured or compiled step reads this one
                group["lr"].fill_(driven["lr"] * ratio)
            else:
                group["lr"] = driven["lr"] * ratio
            group.update({key: driven[key] for key in self._moved})
