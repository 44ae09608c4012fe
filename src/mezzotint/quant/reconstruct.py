"""Reconstruction: learn the rounding of the weights, block by block, from a few hundred inputs.

BRECQ (Li et al. 2021, arXiv 2102.05426): each unit learns to reproduce its fp32 output from the
inputs that the quantized units before it produce. It needs no labels. With single layers as units
it is AdaRound.

    quantize_(encoder, "ssql")
    calibrate(encoder, batches)
    reconstruct_(encoder, batches, weight=3, activation=4)
    with bits(encoder, weight=3, activation=4):  # uses the learned rounding
        features = encoder(x)

AdaRound (Nagel et al. 2020, arXiv 2004.10568): a weight is `s · clip(⌊w / s⌋ + h(v))`. h is a
sigmoid stretched to −0.1 … 1.1 and clipped to 0 … 1 (eq. 23). v starts so that h is the fractional
part of w / s. A penalty `1 − |2h − 1|^β` (eq. 24) with a decaying β drives every h to 0 or 1. The
result is one bit per weight: round up or down.

QDrop (Wei et al. 2022, arXiv 2203.05740): during learning each activation stays fp32 with some
probability, so that the rounding does not overfit one particular grid. The activations' steps are
learned as well.

Differs from the papers: the error is relative to the error of rounding to nearest, and the penalty
is a mean over weights, so that one λ serves units of any size and scale (Adam ignores the common
factor); the error is not weighted by the Fisher information; and a unit whose error does not
decrease keeps rounding to nearest.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import bits
from mezzotint.quant.convert import parameter_of, quantizer_slots
from mezzotint.quant.fake import ActivationQuantizer, Layout, Quantizer, WeightQuantizer
from mezzotint.quant.grid import SYMMETRIC, Grid, Scheme
from mezzotint.quant.hooks import Unit, evaluating, record, units
from mezzotint.quant.observers import MinMax
from mezzotint.seeding import key_of

_LOW, _HIGH = -0.1, 1.1


class AdaRound(Quantizer, kind="adaround"):
    """Soft rounding of one weight on a fixed grid; replaces the weight's quantizer during learning.

    Args:
        weight: fp32 weight of the layer.
        grid: grid of the weight, `[R, 1]`.
        layout: layout of the grid's rows.

    Attributes:
        v: learned rounding logits, of the weight's shape.
    """

    def __init__(self, weight: Tensor, grid: Grid, layout: Layout) -> None:
        super().__init__(layout, "symmetric", MinMax())
        self.mode = "quantize"
        with torch.no_grad():
            self._grid = Grid(
                grid.scale.detach(), grid.zero_point, grid.low, grid.high, grid.divide
            )
            codes = layout.rows(weight) / self._grid.scale
            part = layout.unrows((codes - codes.floor()).clamp(0.01, 0.99), weight.shape)
            self.v = nn.Parameter(torch.logit((part - _LOW) / (_HIGH - _LOW)))

    @property
    def keeps_range(self) -> bool:
        """False: a soft rounding is never saved."""
        return False

    def rounding(self) -> Tensor:
        """Return h(v), the fraction of a step that each weight is rounded up, 0 to 1."""
        stretched = torch.sigmoid(self.v) * (_HIGH - _LOW) + _LOW
        return torch.where(stretched <= 0.0, 0.0, torch.where(stretched >= 1.0, 1.0, stretched))

    def penalty(self, beta: float) -> Tensor:
        """Return the mean of `1 − |2h − 1|^β`, which is 0 once every h is 0 or 1."""
        return 1.0 - (2.0 * self.rounding() - 1.0).abs().pow(beta).mean()

    def rounded_up(self) -> Tensor:
        """Return which weights are rounded up, bool of the weight's shape."""
        return self.v >= 0.0

    def quantize(self, x: Tensor) -> Tensor:
        """Round the weight softly; the result is differentiable in v and not in the weight."""
        rows, grid = self.layout.rows(x.detach()), self._grid
        codes = (rows / grid.scale).floor() + self.layout.rows(self.rounding())
        if grid.zero_point is not None:
            codes = codes + grid.zero_point
        codes = torch.minimum(torch.maximum(codes, grid.low), grid.high)
        if grid.zero_point is not None:
            codes = codes - grid.zero_point
        return self.layout.unrows(codes * grid.scale, x.shape)


class LearnedStep(Quantizer):
    """Grid of an activation with a learned step and a fixed zero point; replaces its quantizer.

    Args:
        quantizer: calibrated quantizer, set to the bits to learn for.
        drop: probability that a value stays fp32 (QDrop).

    Attributes:
        change: learned log of the ratio of the new step to the old one. In the log domain one
            learning rate fits steps of every size.
        generator: random generator of QDrop, set before each forward pass. `None` drops nothing.
    """

    def __init__(self, quantizer: Quantizer, *, drop: float) -> None:
        if not 0.0 <= drop < 1.0:
            raise ValueError(f"`drop` must be 0 or more and below 1, got {drop}. QDrop uses 0.5.")
        super().__init__(quantizer.layout, quantizer.scheme, MinMax())
        self.mode, self.drop = "quantize", drop
        self.generator: torch.Generator | None = None
        self._start = quantizer.grid()
        self.change = nn.Parameter(torch.zeros_like(self._start.scale.detach()))

    @property
    def keeps_range(self) -> bool:
        """False: the learned range is saved by the quantizer that this one replaces."""
        return False

    def grid(self) -> Grid:
        """Return the grid with the current step."""
        start = self._start
        return Grid(
            start.scale * self.change.exp(), start.zero_point, start.low, start.high, start.divide
        )

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize, and leave a random subset in fp32."""
        out = self.layout.quantize(x, self.grid())
        if self.generator is None or self.drop == 0.0:
            return out
        dropped = torch.rand(x.shape, generator=self.generator, device=x.device) < self.drop
        return torch.where(dropped, x, out)

    def range(self) -> Tensor:
        """Return the range for which the quantizer's scheme gives this grid, `[2, R, 1]`."""
        return range_of(self.scheme, self.grid())


@torch.no_grad()
def range_of(scheme: Scheme, grid: Grid) -> Tensor:
    """Invert `make_grid`: return the range of a grid to float32 precision, `[2, R, 1]`."""
    if scheme in SYMMETRIC:
        # `symmetric` divides by its largest code, SSQL's scheme by half a code more.
        high = grid.scale * (grid.high if scheme == "symmetric" else grid.high + 0.5)
        return torch.stack([-high, high])
    zero = torch.zeros_like(grid.scale) if grid.zero_point is None else grid.zero_point
    low = -zero * grid.scale
    return torch.stack([low, low + (grid.high - grid.low) * grid.scale])


_WARMUP = 0.2
_BETAS = (20.0, 2.0)
_STEP_LR = 1e-3


@dataclass(frozen=True)
class Reconstruction:
    """Result of one unit.

    Attributes:
        name: name of the module.
        before: mean squared error of its output with rounding to nearest.
        after: mean squared error with the learned rounding; never larger.
        improved: whether the learned rounding is better, and so is used.
    """

    name: str
    before: float
    after: float
    improved: bool


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
) -> list[Reconstruction]:
    """Learn the rounding of the weights, and the steps of the activations, for one bit config.

    The result, one bool per weight and one range per activation, is saved for these bits only. A
    layer with fixed bits learns at those and always uses the result. After further training of the
    weights the rounding is stale: reconstruct again. Random numbers are keyed; no global generator
    is used.

    Args:
        encoder: quantizable network, calibrated unless `activation` is 32.
        batches: normalized inputs of the training data, without augmentation; a few hundred
            samples, all in memory together with one unit's inputs and outputs.
        weight: bits of the weights.
        activation: bits of the activations; 32 keeps them fp32.
        granularity: `"block"` (BRECQ) or `"layer"` (AdaRound).
        steps: Adam steps per unit.
        batch_size: samples per step.
        lr: learning rate of the rounding.
        drop: probability that an activation stays fp32 during learning (QDrop), for `activation`
            below 32.
        penalty: λ, weight of the penalty that drives the rounding to 0 or 1.
        seed: seed of the batches and of QDrop.

    Returns:
        The units in execution order.

    Raises:
        ValueError: without samples, for bits outside 2 to 8, or when activations have no range.
    """
    data = list(batches)
    if not data:
        raise ValueError("`batches` is empty. Pass a few hundred inputs of the training data.")
    if weight not in WeightQuantizer.supported_bits:
        raise ValueError(f"`weight` must be 2 to 8 bits, got {weight}.")
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}. Try 1000.")
    done = []
    with evaluating(encoder), bits(encoder, weight=weight, activation=activation):
        for _, _, quantizer in quantizer_slots(encoder):
            quantizer.untune("rounding", quantizer.num_bits)
            quantizer.untune("range", quantizer.num_bits)
        for index, name in enumerate(units(encoder, data[0][:2], granularity)):
            plan = _Plan(steps, batch_size, lr, drop, penalty, key_of(seed, "reconstruct", index))
            done.append(_unit(encoder, name, data, plan))
    return done


def _unit(encoder: nn.Module, name: str, data: list[Tensor], plan: _Plan) -> Reconstruction:
    inputs, _, others = record(encoder, name, data)
    with _fp32(encoder):
        clean, targets, _ = record(encoder, name, data)
    unit = encoder.get_submodule(name)

    def run(x: Tensor) -> Tensor:
        out: Tensor = unit(x, *others)
        return out

    def error() -> float:
        with torch.no_grad():
            starts = range(0, len(inputs), 256)
            parts = [
                (run(inputs[i : i + 256]) - targets[i : i + 256]).square().sum().double()
                for i in starts
            ]
        return float(torch.stack(parts).sum()) / targets.numel()

    before = error()
    if before == 0.0:
        return Reconstruction(name, before, before, False)
    learners = _learners(unit, plan.drop)
    for owner, slot, _, learner in learners:
        setattr(owner, slot, learner)
    try:
        _learn(run, [learner for *_, learner in learners], (inputs, clean, targets), before, plan)
    finally:
        for owner, slot, quantizer, _ in learners:
            setattr(owner, slot, quantizer)
    for _, _, quantizer, learner in learners:
        if isinstance(learner, AdaRound):
            quantizer.tune("rounding", learner.rounded_up())
        else:
            quantizer.tune("range", learner.range())
    after = error()
    if after < before:
        return Reconstruction(name, before, after, True)
    for _, _, quantizer, learner in learners:
        quantizer.untune(
            "rounding" if isinstance(learner, AdaRound) else "range", quantizer.num_bits
        )
    return Reconstruction(name, before, before, False)


def _learners(
    unit: nn.Module, drop: float
) -> list[tuple[nn.Module, str, Quantizer, AdaRound | LearnedStep]]:
    """Make a learner for each uniform quantizer of a unit; other kinds learn in training only."""
    learners: list[tuple[nn.Module, str, Quantizer, AdaRound | LearnedStep]] = []
    for owner, slot, quantizer in quantizer_slots(unit):
        if quantizer.mode == "quantize" and isinstance(quantizer, WeightQuantizer):
            parameter = parameter_of(owner)
            rounding = AdaRound(parameter, quantizer.grid_of(parameter), quantizer.layout)
            learners.append((owner, slot, quantizer, rounding))
        elif quantizer.mode == "quantize" and isinstance(quantizer, ActivationQuantizer):
            learners.append((owner, slot, quantizer, LearnedStep(quantizer, drop=drop)))
    return learners


def _learn(
    run: Callable[[Tensor], Tensor],
    learners: list[AdaRound | LearnedStep],
    data: tuple[Tensor, Tensor, Tensor],
    scale: float,
    plan: _Plan,
) -> None:
    """Minimize the unit's error and the penalty with Adam.

    Args:
        run: runs the unit.
        learners: learners in place of its quantizers.
        data: inputs in the quantized network, inputs in the fp32 network, and fp32 outputs.
        scale: error before learning.
        plan: settings.
    """
    inputs, clean, targets = data
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
        x, y = inputs[chosen.to(inputs.device)], targets[chosen.to(inputs.device)]
        if activations:
            numbers = torch.rand(
                x.shape, generator=_generator(plan, step, 1, x.device), device=x.device
            )
            x = torch.where(numbers < plan.drop, clean[chosen.to(inputs.device)], x)
        for index, learner in enumerate(activations):
            learner.generator = _generator(plan, step, index + 2, x.device)
        with torch.enable_grad():
            loss = (run(x) - y).square().mean() / scale
            if weights and done >= _WARMUP:
                beta = _BETAS[0] + (_BETAS[1] - _BETAS[0]) * (done - _WARMUP) / (1.0 - _WARMUP)
                loss = loss + plan.penalty * torch.stack([w.penalty(beta) for w in weights]).sum()
        # `grad` instead of `backward`: the network's own parameters get no gradient.
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for learner in activations:
        learner.generator = None


def _generator(plan: _Plan, step: int, stream: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(key_of(plan.key, step, stream))


@contextmanager
def _fp32(encoder: nn.Module) -> Iterator[None]:
    """Run in fp32 inside the block, and restore the modes after it without updating ranges."""
    modes = [(quantizer, quantizer.mode) for _, _, quantizer in quantizer_slots(encoder)]
    for quantizer, _ in modes:
        quantizer.mode = "off"
    try:
        yield
    finally:
        for quantizer, mode in modes:
            quantizer.mode = mode
