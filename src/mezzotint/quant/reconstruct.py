"""Reconstruction: learn the rounding of the weights, block after block, from a few hundred inputs without labels.

BRECQ (Li et al. 2021, arXiv 2102.05426): each unit learns to return, from the inputs that the
quantized units before it give, what it returned in the float network. With one layer as the unit it
is AdaRound. See `mezzotint.quant.adaround` for what is learned and for QDrop.

    quantize_(encoder, "ssql") calibrate(encoder, batches) reconstruct_(encoder, batches, weight=3,
    activation=4) with bits(encoder, weight=3, activation=4):  # rounds as it has learned; other
    widths are as before
        features = encoder(x)

Differs from the papers: the error is divided by that of rounding to the nearest and the penalty is
a mean over weights, so that one λ serves units of any size and scale (Adam does not see the common
factor); the error is not weighted by the Fisher information; and a unit that ends up worse than it
was is left as it was.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mezzotint.quant.adaround import AdaRound, LearnedStep
from mezzotint.quant.bitwidth import bits
from mezzotint.quant.convert import parameter_of, quantizer_places
from mezzotint.quant.fake import ActivationQuantizer, Quantizer, WeightQuantizer
from mezzotint.quant.hooks import Unit, evaluating, record, units
from mezzotint.seeding import key_of

_WARMUP = 0.2
_BETAS = (20.0, 2.0)
_STEP_LR = 1e-3


@dataclass(frozen=True)
class Reconstructed:
    """One unit.

    Attributes:
        name: of the module.
        before: mean squared error of its output with weights rounded to the nearest.
        after: the same with what was learned; never more.
        kept: whether what was learned is better, and so is used.
    """

    name: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class _Plan:
    steps: int
    batch_size: int
    lr: float
    drop: float
    penalty: float
    key: int


def reconstruct_(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    weight: int = 4,
    activation: int = 32,
    granularity: Unit = "block",
    steps: int = 1000,
    batch_size: int = 32,
    lr: float = 1e-2,
    drop: float = 0.5,
    penalty: float = 10.0,
    seed: int = 0,
) -> list[Reconstructed]:
    """Learn the rounding of the weights at one width, and with it the steps of the activations.

    Stored are one bool a weight and one range an activation, for this width alone; a layer with a
    width of its own learns at that, and uses it whatever the others run at. Training the weights
    further makes them stale: reconstruct again. The draws are keyed, and no global generator is
    used.

    Args:
        encoder: quantizable and, unless `activation` is 32, calibrated.
        batches: normalized inputs, of the training data and without augmentation; a few hundred
            samples, all held in memory along with one unit's inputs and outputs.
        weight: bits of the weights.
        activation: bits of the activations; 32 leaves them in float.
        granularity: `"block"` (BRECQ) or `"layer"` (AdaRound).
        steps: of Adam, for each unit.
        batch_size: samples in each.
        lr: of the rounding.
        drop: probability that an activation stays in float while learning (QDrop), with
            `activation` below 32.
        penalty: λ, weight of the penalty on undecided weights.
        seed: of the batches and of what is dropped.

    Returns:
        The units, in the order in which they run.

    Raises:
        ValueError: without samples, for a width that is not 2 to 8, or when activations have no
            range.
    """
    data = list(batches)
    if not data or weight not in WeightQuantizer.widths or steps < 1:
        raise ValueError(
            f"got {len(data)} batches, {weight} bits and {steps} steps; allowed are one batch or more, 2 to 8 bits and "
            "one step or more: give inputs of the training data"
        )
    done = []
    with evaluating(encoder), bits(encoder, weight=weight, activation=activation):
        for _, _, quantizer in quantizer_places(encoder):
            quantizer.untune("rounding", quantizer.width)
            quantizer.untune("range", quantizer.width)
        for place, name in enumerate(units(encoder, data[0][:2], granularity)):
            plan = _Plan(steps, batch_size, lr, drop, penalty, key_of(seed, "reconstruct", place))
            done.append(_unit(encoder, name, data, plan))
    return done


def _unit(encoder: nn.Module, name: str, data: list[Tensor], plan: _Plan) -> Reconstructed:
    inputs, _, others = record(encoder, name, data)
    with _floating(encoder):
        clean, wanted, _ = record(encoder, name, data)
    unit = encoder.get_submodule(name)

    def run(x: Tensor) -> Tensor:
        out: Tensor = unit(x, *others)
        return out

    def error() -> float:
        with torch.no_grad():
            starts = range(0, len(inputs), 256)
            parts = [
                (run(inputs[i : i + 256]) - wanted[i : i + 256]).square().sum().double()
                for i in starts
            ]
        return float(torch.stack(parts).sum()) / wanted.numel()

    before = error()
    if before == 0.0:
        return Reconstructed(name, before, before, False)
    learners = _learners(unit, plan.drop)
    for owner, place, _, learner in learners:
        setattr(owner, place, learner)
    try:
        _learn(run, [learner for *_, learner in learners], (inputs, clean, wanted), before, plan)
    finally:
        for owner, place, quantizer, _ in learners:
            setattr(owner, place, quantizer)
    for _, _, quantizer, learner in learners:
        if isinstance(learner, AdaRound):
            quantizer.tune("rounding", learner.decided())
        else:
            quantizer.tune("range", learner.range())
    after = error()
    if after < before:
        return Reconstructed(name, before, after, True)
    for _, _, quantizer, learner in learners:
        quantizer.untune("rounding" if isinstance(learner, AdaRound) else "range", quantizer.width)
    return Reconstructed(name, before, before, False)


def _learners(
    unit: nn.Module, drop: float
) -> list[tuple[nn.Module, str, Quantizer, AdaRound | LearnedStep]]:
    """What stands in for each uniform quantizer of a unit; other kinds learn in training, and stay as they are."""
    found: list[tuple[nn.Module, str, Quantizer, AdaRound | LearnedStep]] = []
    for owner, place, quantizer in quantizer_places(unit):
        if quantizer.mode == "quantize" and isinstance(quantizer, WeightQuantizer):
            parameter = parameter_of(owner)
            found.append(
                (
                    owner,
                    place,
                    quantizer,
                    AdaRound(parameter, quantizer.grid_of(parameter), quantizer.layout),
                )
            )
        elif quantizer.mode == "quantize" and isinstance(quantizer, ActivationQuantizer):
            found.append((owner, place, quantizer, LearnedStep(quantizer, drop=drop)))
    return found


def _learn(
    run: Callable[[Tensor], Tensor],
    learners: list[AdaRound | LearnedStep],
    data: tuple[Tensor, Tensor, Tensor],
    scale: float,
    plan: _Plan,
) -> None:
    """Adam on the unit's error and the penalty.

    Args:
        run: the unit.
        learners: of its quantizers.
        data: inputs of the quantized network, of the float network, and outputs of the float
            network.
        scale: error to begin with.
        plan: how long and how fast.
    """
    inputs, clean, wanted = data
    weights = [learner for learner in learners if isinstance(learner, AdaRound)]
    activations = [learner for learner in learners if isinstance(learner, LearnedStep)]
    parameters = [learner.v for learner in weights] + [learner.change for learner in activations]
    groups = [{"params": parameters[: len(weights)], "lr": plan.lr}]
    if activations:
        groups.append({"params": parameters[len(weights) :], "lr": _STEP_LR})
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    for step in range(plan.steps):
        done = step / plan.steps
        if activations:
            optimizer.param_groups[-1]["lr"] = _STEP_LR * 0.5 * (1.0 + math.cos(math.pi * done))
        chosen = torch.randint(
            len(inputs),
            (plan.batch_size,),
            generator=_generator(plan, step, 0, torch.device("cpu")),
        )
        x, y = inputs[chosen.to(inputs.device)], wanted[chosen.to(inputs.device)]
        if activations:
            numbers = torch.rand(
                x.shape, generator=_generator(plan, step, 1, x.device), device=x.device
            )
            x = torch.where(numbers < plan.drop, clean[chosen.to(inputs.device)], x)
        for place, learner in enumerate(activations):
            learner.generator = _generator(plan, step, place + 2, x.device)
        with torch.enable_grad():
            loss = (run(x) - y).square().mean() / scale
            if weights and done >= _WARMUP:
                beta = _BETAS[0] + (_BETAS[1] - _BETAS[0]) * (done - _WARMUP) / (1.0 - _WARMUP)
                loss = loss + plan.penalty * torch.stack([w.penalty(beta) for w in weights]).sum()
        gradients = torch.autograd.grad(
            loss, parameters
        )  # of these alone: the network's own are left untouched
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for learner in activations:
        learner.generator = None


def _generator(plan: _Plan, step: int, stream: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(key_of(plan.key, step, stream))


@contextmanager
def _floating(encoder: nn.Module) -> Iterator[None]:
    """In float inside; outside as before, without choosing any range anew."""
    modes = [(quantizer, quantizer.mode) for _, _, quantizer in quantizer_places(encoder)]
    for quantizer, _ in modes:
        quantizer.mode = "off"
    try:
        yield
    finally:
        for quantizer, mode in modes:
            quantizer.mode = mode
