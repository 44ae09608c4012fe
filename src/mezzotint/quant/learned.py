"""Quantizers for training: LSQ and PACT learn their range, DoReFa and Binary have fixed levels.

Name them in a policy: `QuantizationPolicy(..., weight=LSQ, activation=LSQ)`. Their parameters are
in `encoder.parameters()`, so call `quantize_` before making the optimizer. They save no range
beyond those parameters.

`Binary` (1 bit) is BNN (Courbariaux et al. 2016, arXiv 1602.02830) with the scale of XNOR-Net
(Rastegari et al. 2016, arXiv 1603.05279). SSQL's source clips the latent weights in place. Here
only the mask of the gradient bounds them, since a parameter that changes in a forward pass cannot
be shared with other bit-widths.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mezzotint.quant.fake import Layout, Quantizer, Rangeless
from mezzotint.quant.grid import SMALLEST, Grid, fake_quantize, scale_gradient, sign_ste
from mezzotint.quant.observers import MinMax


class _MeanMagnitude(MinMax):
    """Collect mean |x| and the extremes, which show the sign and non-finite values."""

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
    """Learned step size quantization (Esser et al. 2019, arXiv 1902.08153): learn the step.

    Its gradient is divided by √(values · largest code), so that step and weights move at a similar
    pace (§2.2). The initial value is 2 · mean |x| / √(largest code) (§2.1). A weight's step is
    initialized when the layer is converted, an activation's at calibration, which also decides
    whether negative codes are needed.

    The paper trains one network for one bit-width. Here the parameter is the step at `bits`. For
    other bits it is multiplied by √(largest code at `bits` / largest code at those bits), which is
    the paper's rule for the initial value.

    Args:
        layout: values that share a step; by default an output channel of a weight, or a whole
            activation tensor.
        bits: bits that the step belongs to.
        fixed_bits: bits that `quant.bits` does not change.
    """

    step: nn.Parameter
    negative: Tensor

    def __init__(
        self, layout: Layout | None = None, *, bits: int = 4, fixed_bits: int | None = None
    ) -> None:
        if not 2 <= bits <= 8:
            raise ValueError(f"`bits` must be 2 to 8, got {bits}. Try 4.")
        super().__init__(layout or Layout(), "symmetric", _MeanMagnitude(), fixed_bits=fixed_bits)
        self.trained_bits, self._own_layout = fixed_bits or bits, layout is not None
        self.step = nn.Parameter(torch.full((1, 1), torch.nan))
        self.register_buffer("negative", torch.ones(()))
        self._values = 0

    @property
    def keeps_range(self) -> bool:
        """False: the step is the state."""
        return False

    @property
    def calibrated(self) -> bool:
        """Whether the step is initialized; waits for the device."""
        return bool(self.step.isfinite().all())

    def fix(self, bits: int | None) -> None:
        """Fix the bits, and let the step belong to them."""
        if bits is not None and not self.calibrated:
            self.trained_bits = bits
        super().fix(bits)

    def attach(self, weight: Tensor) -> None:
        """Initialize one step for each range of this weight from its values."""
        if not self._own_layout:
            self.layout = Layout("channel")
        rows = self.layout.rows(weight.detach().float())
        self._values = rows.shape[1]
        self._initialize(rows.abs().mean(1, keepdim=True), torch.ones_like(self.negative))

    def refresh(self) -> None:
        """Initialize from calibration, once; the optimizer then owns the step."""
        if self.observer.seen and isinstance(self.observer, _MeanMagnitude):
            with torch.no_grad():
                self.low, self.high = self.observer.range(self.scheme, self.bits)
                total, count = self.observer.sums
                self._initialize(total / count, (self.low.min() < 0.0).to(self.negative.dtype))
            self.observer.reset()

    @torch.no_grad()
    def _initialize(self, mean: Tensor, negative: Tensor) -> None:
        self.negative = negative
        step = (
            2.0
            * mean
            / self._largest(torch.tensor(float(self.trained_bits), device=mean.device)).sqrt()
        ).clamp_min(SMALLEST)
        if step.shape == self.step.shape:
            self.step.copy_(step)
        else:
            self.step = nn.Parameter(step)

    def _largest(self, bits: Tensor) -> Tensor:
        """Return the largest of 2^b signed or unsigned codes."""
        return torch.exp2(bits - self.negative).round() - 1

    def grid(self) -> Grid:
        """Return the grid at the current bits."""
        largest = self._largest(self.bits)
        ratio = self._largest(torch.full_like(self.bits, float(self.trained_bits))) / largest
        scale = self.step.abs().clamp_min(SMALLEST) * ratio.sqrt()
        return Grid(scale, None, -(largest + 1) * self.negative, largest, divide=True)

    def quantize(self, x: Tensor) -> Tensor:
        """Round to the grid, and scale the gradient of the step."""
        grid = self.grid()
        values = self._values or x[0].numel()  # per range of a weight, or per sample
        scale = scale_gradient(grid.scale, (values * grid.high).rsqrt())
        return self.layout.quantize(x, Grid(scale, None, grid.low, grid.high))


class PACT(Rangeless):
    """Parameterized clipping activation (Choi et al. 2018, arXiv 1805.06085): learn the clip value.

    `y = clip(x, 0, α)`, rounded to 2^b levels over 0 … α. The gradient of α is 1 where `x ≥ α` and
    0 elsewhere (eq. 3). The penalty `clip_penalty` keeps the range small.

    The signed form clips to −α … α with 2^b − 1 levels, so that both ends and 0 are levels. The
    paper has only the unsigned form. PACT is for activations only.

    Args:
        alpha: initial α.
        signed: whether activations can be negative.
        fixed_bits: bits that `quant.bits` does not change.
    """

    alpha: nn.Parameter

    def __init__(
        self, *, alpha: float = 10.0, signed: bool = False, fixed_bits: int | None = None
    ) -> None:
        if alpha <= 0.0:
            raise ValueError(f"`alpha` must be positive, got {alpha}. Try 10.")
        super().__init__(Layout(), "symmetric" if signed else "affine", fixed_bits=fixed_bits)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def attach(self, weight: Tensor) -> None:
        """Raise a TypeError: this quantizer is for activations."""
        raise TypeError(
            "PACT quantizes activations, not weights. Use LSQ or DoReFaWeight for the weights."
        )

    def grid(self) -> Grid:
        """Return the grid over 0 … α, or −α … α."""
        alpha = self.alpha.clamp_min(SMALLEST).detach()
        if self.scheme == "symmetric":
            largest = torch.exp2(self.bits - 1).round() - 1
            return Grid(alpha / largest, None, -largest, largest)
        largest = torch.exp2(self.bits).round() - 1
        return Grid(alpha / largest, None, torch.zeros_like(largest), largest)

    def quantize(self, x: Tensor) -> Tensor:
        """Clip with the gradient of α, then round with the straight-through gradient."""
        alpha = self.alpha.clamp_min(SMALLEST)
        lowest = -alpha if self.scheme == "symmetric" else torch.zeros_like(alpha)
        clipped = torch.where(x >= alpha, alpha, torch.where(x < lowest, lowest, x))
        return self.layout.quantize(clipped, self.grid())


def clip_penalty(encoder: nn.Module) -> Tensor:
    """Return the sum of α² over the PACT quantizers, a term for the loss (weighted by λ).

    Raises:
        ValueError: when the network has no PACT quantizer.
    """
    terms = [module.alpha.square() for module in encoder.modules() if isinstance(module, PACT)]
    if not terms:
        raise ValueError(
            f"{type(encoder).__name__} has no PACT quantizer. Quantize it with a policy of "
            "activation=PACT."
        )
    return torch.stack(terms).sum()


class DoReFaWeight(Rangeless):
    """DoReFa weights (Zhou et al. 2016, arXiv 1606.06160, eq. 9): tanh, then 2^b levels without 0.

    `m · (2 · round(n · (tanh w / 2m + ½)) / n − 1)` with `m = max |tanh w|` of the layer and `n =
    2^b − 1`. At 1 bit: sign times mean |w| (eq. 8). Differs from the paper, which has no outer
    factor m and so changes the scale of the layer's output; with it, fine-tuning can start from an
    fp32 network.

    Args:
        fixed_bits: bits that `quant.bits` does not change.
    """

    supported_bits: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "symmetric", fixed_bits=fixed_bits)

    def quantize(self, x: Tensor) -> Tensor:
        """Round to the levels, differentiably in every weight."""
        squashed = torch.tanh(x)
        largest = squashed.abs().amax().clamp_min(SMALLEST)
        count = torch.exp2(self.bits).round() - 1
        unit = squashed / (2.0 * largest) + 0.5
        several = (2.0 * fake_quantize(unit, 1.0 / count, None, 0.0, count) - 1.0) * largest
        one = torch.where(x >= 0.0, 1.0, -1.0) * x.abs().mean() + (x - x.detach())
        return torch.where(self.bits < 1.5, one, several)


class DoReFaActivation(Quantizer):
    """DoReFa activations (arXiv 1606.06160, §2.5): clip to 0 … 1, then round to 2^b levels.

    Args:
        fixed_bits: bits that `quant.bits` does not change.
    """

    supported_bits: ClassVar[range] = range(1, 9)

    def __init__(self, *, fixed_bits: int | None = None) -> None:
        super().__init__(Layout(), "affine", fixed_bits=fixed_bits)

    keeps_range = DoReFaWeight.keeps_range
    calibrated = DoReFaWeight.calibrated

    def attach(self, weight: Tensor) -> None:
        """Raise a TypeError: this quantizer is for activations."""
        raise TypeError(
            "DoReFaActivation quantizes activations, not weights. Use DoReFaWeight for the weights."
        )

    def grid(self) -> Grid:
        """Return the grid over 0 … 1."""
        count = torch.exp2(self.bits).round() - 1
        return Grid((1.0 / count).reshape(1, 1), None, torch.zeros_like(count), count)


class Binary(Rangeless):
    """Binary values −s or s with s the mean magnitude of each output channel; supports 1 bit only.

    Values beyond ±1 get no gradient through the sign, and all values get one through s. Layers that
    need more bits must have another quantizer: name them in the policy's `skip`.

    Args:
        layout: values that share a scale.
        scaled: whether s is the mean magnitude (weights) or 1 (activations, whose scale must not
            depend on the batch).
        fixed_bits: 1, or `None` to follow `quant.bits`.
    """

    supported_bits: ClassVar[range] = range(1, 2)

    def __init__(
        self, layout: Layout | None = None, *, scaled: bool = True, fixed_bits: int | None = None
    ) -> None:
        super().__init__(
            layout or Layout("channel" if scaled else "tensor"), "symmetric", fixed_bits=fixed_bits
        )
        self.scaled = scaled

    def grid_of(self, weight: Tensor) -> Grid:
        """Return the grid with the codes 0 and 1 for −s and s."""
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
        """Return 1 where the value is at least 0, else 0: int16 `[R, N]`."""
        return (self.layout.rows(weight) >= 0.0).to(torch.int16)

    def quantize(self, x: Tensor) -> Tensor:
        """Return sign times scale."""
        if not self.scaled:
            return sign_ste(x)
        rows = self.layout.rows(x)
        return self.layout.unrows(sign_ste(rows) * rows.abs().mean(1, keepdim=True), x.shape)
