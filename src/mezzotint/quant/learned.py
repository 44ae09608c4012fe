"""Quantizers whose range is trained with the network: LSQ and PACT.

They stand in a policy (`Policy(..., weight=LSQ, activation=LSQ)`), their parameters are in
`encoder.parameters()`, and `quantize_` must therefore come before the optimizer is made. They cost
no range in the state beyond those parameters.

One bit: the sign, with a gradient where the value is small.

BNN (Courbariaux et al. 2016, arXiv 1602.02830) with the scale of XNOR-Net (Rastegari et al. 2016,
arXiv 1603.05279). SSQL's source clips the latent weights in place; here the gradient's mask alone
keeps them from running away, since a parameter that changes in a forward pass cannot be shared with
other widths.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mezzotint.quant.fake import Layout, Quantizer, Rangeless
from mezzotint.quant.grid import SMALLEST, Grid, fake_quantize, scale_gradient, sign_ste
from mezzotint.quant.observers import MinMax


class _MeanMagnitude(MinMax):
    """Collects mean |x| besides the extremes, of which the sign and what is not finite are read."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(2, 1, 1), persistent=False)

    def reset(self) -> None:
        super().reset()
        self.sums = torch.zeros_like(self.sums)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        super().update(rows)
        mean = rows.abs().mean(1, keepdim=True)
        self.sums = self.sums + torch.stack([mean, torch.ones_like(mean)])


class LSQ(Quantizer):
    """Learned step size quantization (Esser et al. 2019, arXiv 1902.08153): the step is a parameter.

    Its gradient is divided by √(values · largest code), so that step and weights move at a like
    pace (§2.2). It starts at 2 · mean |x| / √(largest code) (§2.1): a weight's when the layer is
    converted, an activation's when it is calibrated, where it is also seen whether negative codes
    are needed.

    The paper trains one network for one width. Here the parameter is the step at `bits`; at another
    width it is multiplied by √(largest code at `bits` / largest code there), the paper's own rule
    for where to start.

    Args:
        layout: for weights, one step for each output channel by default; activations have one for
            the tensor.
        bits: width that the step belongs to.
        fixed_bits: width that `quant.bits` does not change.
    """

    step: nn.Parameter
    negative: Tensor

    def __init__(
        self, layout: Layout | None = None, *, bits: int = 4, fixed_bits: int | None = None
    ) -> None:
        super().__init__(layout or Layout(), "symmetric", _MeanMagnitude(), fixed_bits=fixed_bits)
        self.home, self._own_layout = fixed_bits or bits, layout is not None
        self.step = nn.Parameter(torch.full((1, 1), torch.nan))
        self.register_buffer("negative", torch.ones(()))
        self._values = 0

    @property
    def keeps_range(self) -> bool:
        """The step is the state."""
        return False

    @property
    def calibrated(self) -> bool:
        """Whether the step has begun; waits for the device."""
        return bool(self.step.isfinite().all())

    def fix(self, bits: int | None) -> None:
        """The step belongs to the fixed width too."""
        if bits is not None and not self.calibrated:
            self.home = bits
        super().fix(bits)

    def attach(self, weight: Tensor) -> None:
        """One step for each range of this weight, from its values."""
        if not self._own_layout:
            self.layout = Layout("channel")
        rows = self.layout.rows(weight.detach().float())
        self._values = rows.shape[1]
        self._begin(rows.abs().mean(1, keepdim=True), torch.ones_like(self.negative))

    def refresh(self) -> None:
        """Begin at what calibration has collected, once; then the step is left to the optimizer."""
        if self.observer.seen and isinstance(self.observer, _MeanMagnitude):
            with torch.no_grad():
                self.low, self.high = self.observer.range(self.scheme, self.bits)
                total, count = self.observer.sums
                self._begin(total / count, (self.low.min() < 0.0).to(self.negative.dtype))
            self.observer.reset()

    @torch.no_grad()
    def _begin(self, mean: Tensor, negative: Tensor) -> None:
        self.negative = negative
        step = (
            2.0 * mean / self._largest(torch.tensor(float(self.home), device=mean.device)).sqrt()
        ).clamp_min(SMALLEST)
        if step.shape == self.step.shape:
            self.step.copy_(step)
        else:
            self.step = nn.Parameter(step)

    def _largest(self, bits: Tensor) -> Tensor:
        """The largest code: of 2^b signed or unsigned ones."""
        return torch.exp2(bits - self.negative).round() - 1

    def grid(self) -> Grid:
        """At the present width."""
        largest = self._largest(self.bits)
        ratio = self._largest(torch.full_like(self.bits, float(self.home))) / largest
        scale = self.step.abs().clamp_min(SMALLEST) * ratio.sqrt()
        return Grid(scale, None, -(largest + 1) * self.negative, largest, divide=True)

    def quantize(self, x: Tensor) -> Tensor:
        """On the grid, with the step's gradient scaled."""
        grid = self.grid()
        values = self._values or x[0].numel()  # of a weight's range, or of one sample's activations
        scale = scale_gradient(grid.scale, (values * grid.high).rsqrt())
        return self.layout.quantize(x, Grid(scale, None, grid.low, grid.high))


class PACT(Rangeless):
    """Parameterized clipping activation (Choi et al. 2018, arXiv 1805.06085): the upper end of the range is learned.

    `y = clip(x, 0, α)`, then rounded to 2^b levels over 0 … α. α's gradient is 1 wherever `x ≥ α`
    and 0 elsewhere (eq. 3); a penalty on α makes the range as small as it can be: `clip_penalty`.

    The signed form clips to −α … α with 2^b − 1 levels, so that both ends and 0 are levels and the
    step is the same on either side; the paper has only the unsigned one. For activations alone.

    Args:
        alpha: where α starts.
        signed: for activations that are negative too.
        fixed_bits: width that `quant.bits` does not change.
    """

    alpha: nn.Parameter

    def __init__(
        self, *, alpha: float = 10.0, signed: bool = False, fixed_bits: int | None = None
    ) -> None:
        if alpha <= 0.0:
            raise ValueError(f"got alpha={alpha}; allowed is above 0: choose 10")
        super().__init__(Layout(), "symmetric" if signed else "affine", fixed_bits=fixed_bits)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def attach(self, weight: Tensor) -> None:
        """Refuse."""
        raise TypeError(
            "got a weight for PACT; allowed are activations: choose LSQ or DoReFaWeight for the weights"
        )

    def grid(self) -> Grid:
        """Over 0 … α, or −α … α."""
        alpha = self.alpha.clamp_min(SMALLEST).detach()
        if self.scheme == "symmetric":
            largest = torch.exp2(self.bits - 1).round() - 1
            return Grid(alpha / largest, None, -largest, largest)
        largest = torch.exp2(self.bits).round() - 1
        return Grid(alpha / largest, None, torch.zeros_like(largest), largest)

    def quantize(self, x: Tensor) -> Tensor:
        """Clipped with α's gradient, then rounded with that of the identity."""
        alpha = self.alpha.clamp_min(SMALLEST)
        lowest = -alpha if self.scheme == "symmetric" else torch.zeros_like(alpha)
        clipped = torch.where(x >= alpha, alpha, torch.where(x < lowest, lowest, x))
        return self.layout.quantize(clipped, self.grid())


def clip_penalty(encoder: nn.Module) -> Tensor:
    """The sum of α² over the PACT quantizers of a network, to be added to a loss with a weight (the paper's λ).

    Raises:
        ValueError: when there is none.
    """
    terms = [module.alpha.square() for module in encoder.modules() if isinstance(module, PACT)]
    if not terms:
        raise ValueError(
            f"got {type(encoder).__name__}, which has no PACT; allowed is a network with activation=PACT"
        )
    return torch.stack(terms).sum()


class DoReFaWeight(Rangeless):
    """DoReFa's weights (Zhou et al. 2016, arXiv 1606.06160, eq. 9): tanh, then 2^b levels over −1 … 1 without 0.

    `m · (2 · round(n · (tanh w / 2m + ½)) / n − 1)` with `m = max |tanh w|` of the layer and `n =
    2^b − 1`. At 1 bit: the sign times the mean |w| (eq. 8). The paper leaves out the outer factor m
    and so changes the scale of the layer's output; with it, a network that was trained in float
    goes on from where it was.

    Args:
        fixed_bits: width that `quant.bits` does not change.
    """

    widths: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "symmetric", fixed_bits=fixed_bits)

    def quantize(self, x: Tensor) -> Tensor:
        """On the levels, differentiable in every weight."""
        squashed = torch.tanh(x)
        largest = squashed.abs().amax().clamp_min(SMALLEST)
        count = torch.exp2(self.bits).round() - 1
        unit = squashed / (2.0 * largest) + 0.5
        several = (2.0 * fake_quantize(unit, 1.0 / count, None, 0.0, count) - 1.0) * largest
        one = torch.where(x >= 0.0, 1.0, -1.0) * x.abs().mean() + (x - x.detach())
        return torch.where(self.bits < 1.5, one, several)


class DoReFaActivation(Quantizer):
    """DoReFa's activations (arXiv 1606.06160, §2.5): clipped to 0 … 1, then rounded to 2^b levels. Nothing is learned.

    Args:
        fixed_bits: width that `quant.bits` does not change.
    """

    widths: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "affine", fixed_bits=fixed_bits)

    keeps_range = DoReFaWeight.keeps_range
    calibrated = DoReFaWeight.calibrated

    def attach(self, weight: Tensor) -> None:
        """Refuse."""
        raise TypeError(
            "got a weight for DoReFaActivation; allowed are activations: choose DoReFaWeight for the weights"
        )

    def grid(self) -> Grid:
        """Over 0 … 1."""
        count = torch.exp2(self.bits).round() - 1
        return Grid((1.0 / count).reshape(1, 1), None, torch.zeros_like(count), count)


class Binary(Rangeless):
    """−s or s, where s is the mean magnitude of each output channel. It runs at 1 bit alone.

    Values beyond ±1 get no gradient through the sign, and all get their part through s. A layer
    that is to keep more bits must have another quantizer: name it in the policy's `skip`.

    Args:
        layout: which values share a scale.
        scaled: whether s is the mean magnitude (weights) or 1 (activations, whose scale must not
            depend on the batch).
        fixed_bits: 1, or `None` to follow `quant.bits`.
    """

    widths: ClassVar[range] = range(1, 2)

    def __init__(
        self, layout: Layout | None = None, *, scaled: bool = True, fixed_bits: int | None = None
    ) -> None:
        super().__init__(
            layout or Layout("channel" if scaled else "tensor"), "symmetric", fixed_bits=fixed_bits
        )
        self.scaled = scaled

    def grid_of(self, weight: Tensor) -> Grid:
        """Codes 0 and 1 for −s and s."""
        rows = self.layout.rows(weight)
        scale = (
            rows.abs().mean(1, keepdim=True).clamp_min(SMALLEST)
            if self.scaled
            else torch.ones_like(rows[:, :1])
        )
        return Grid(
            2.0 * scale,
            torch.full_like(scale, 0.5),
            torch.zeros_like(self.bits),
            torch.ones_like(self.bits),
        )

    def codes(self, weight: Tensor) -> Tensor:
        """1 where the value is 0 or above: int16 `[R, N]`."""
        return (self.layout.rows(weight) >= 0.0).to(torch.int16)

    def quantize(self, x: Tensor) -> Tensor:
        """Signs times scales."""
        if not self.scaled:
            return sign_ste(x)
        rows = self.layout.rows(x)
        return self.layout.unrows(sign_ste(rows) * rows.abs().mean(1, keepdim=True), x.shape)
