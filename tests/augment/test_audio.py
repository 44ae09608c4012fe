import math

import pytest
import torch
import torch.nn.functional as F

from mezzotint.augment.audio import (
    Gain,
    LogMixup,
    RandomFrames,
    RandomResizeCrop,
    SpecAugment,
    TimeRoll,
    log_mixup,
)
from mezzotint.augment.transform import Transform
from mezzotint.seeding import Draws

ALL: list[Transform] = [
    LogMixup(), RandomFrames(frames=20), RandomResizeCrop(), RandomResizeCrop(fill=0.0),
    SpecAugment(frequency=8, time=10), TimeRoll(), Gain(),
]  # fmt: skip


def spectrograms(batch: int = 64, mels: int = 16, frames: int = 24, seed: int = 0) -> torch.Tensor:
    return (
        torch.randn(batch, 1, mels, frames, generator=torch.Generator().manual_seed(seed)) * 3 - 7
    )


def draws(batch: int = 64, key: int = 5) -> Draws:
    return Draws(torch.arange(batch), key)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: t.config["kind"])
def test_contract(transform: Transform) -> None:
    x = spectrograms()
    before, params = x.clone(), transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    assert tuple(y.shape) == transform.output_shape(tuple(x.shape)) and y.isfinite().all()
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    torch.testing.assert_close(y, transform.apply(x, params), rtol=0, atol=0)
    assert y.shape != x.shape or (y != x).flatten(1).any(1).float().mean() > 0.5
    assert all(len(value) == len(x) for value in params.values())
    other = transform.draw(x.shape, draws(key=6))
    assert any(not torch.equal(params[name], other[name]) for name in params)
    if not isinstance(transform, LogMixup):  # whose partner is in the batch
        few = {name: value[10:20] for name, value in params.items()}
        torch.testing.assert_close(transform.apply(x[10:20], few), y[10:20])


def test_log_mixup_is_byol_as_formula_without_its_epsilon() -> None:
    x, z = spectrograms(seed=1) / 4, spectrograms(seed=2) / 4
    share = torch.rand(64, generator=torch.Generator().manual_seed(3)) * 0.4
    share[0] = 0.0
    a = share.double().view(-1, 1, 1, 1)
    expected = ((1 - a) * x.double().exp() + a * z.double().exp()).log()
    torch.testing.assert_close(log_mixup(x, z, share).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_mixup(x, z, share)[0], x[0], rtol=0, atol=0)
    assert log_mixup(x * 1000, z * 1000, share).isfinite().all()


def test_log_mixup_takes_another_sample_and_every_other_one_in_time() -> None:
    x = (
        torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 8, 8) * 15
    )  # the louder of two wins, whatever the fraction
    seen = set()
    for key in range(60):
        y = LogMixup(alpha=1.0)(x, draws(5, key))
        seen |= {(row, round(float(y[row, 0, 0, 0] / 15))) for row in range(5)}
    assert {(0, partner) for partner in range(1, 5)} <= seen and (0, 0) not in seen
    one = x[:1]
    assert LogMixup()(one, draws(1)) is one


@pytest.mark.parametrize("fill", [0.0, None])
def test_crop_is_what_torch_makes_of_a_real_canvas(fill: float | None) -> None:
    x = spectrograms(mels=64, frames=96)
    transform = RandomResizeCrop(fill=fill)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    tops, lefts, heights, widths = params["box"].unbind(1)
    assert heights.min() >= int(0.6 * 64) and heights.max() == 64 and widths.min() >= int(0.6 * 96)
    assert (tops + heights).max() == 64 and (lefts + widths).max() <= 144 and tops.max() > 0
    for row in range(len(x)):
        top, left, height, width = params["box"][row].tolist()
        canvas = torch.full((64, 144), float(x[row].min()) if fill is None else fill)
        canvas[:, 24:120] = x[row, 0]
        box = canvas[None, None, top : top + height, left : left + width]
        expected = F.interpolate(box, (64, 96), mode="bicubic", align_corners=True)
        torch.testing.assert_close(y[row], expected[0], atol=1e-4, rtol=1e-4)


def test_crop_of_everything_is_the_sample() -> None:
    x = spectrograms()
    y = RandomResizeCrop(frequency=(1.0, 1.0), time=(1.0, 1.0), canvas=1.0)(x, draws())
    torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-5)


def test_spec_augment_blanks_what_it_drew() -> None:
    x = spectrograms()
    transform = SpecAugment(frequency=6, time=30, masks=2, fill=0.0)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    for row in range(len(x)):
        expected = x[row].clone()
        for first, width in params["mels"][row].tolist():
            assert 0 <= first <= first + width <= 16 and width <= 6
            expected[:, first : first + width] = 0.0
        for first, width in params["frames"][row].tolist():
            assert 0 <= first <= first + width <= 24
            expected[:, :, first : first + width] = 0.0
        torch.testing.assert_close(y[row], expected, rtol=0, atol=0)
    assert torch.unique(params["mels"][:, :, 1]).tolist() == list(range(7))
    filled = SpecAugment(frequency=16, time=0)
    params = filled.draw(x.shape, draws())
    y = filled.apply(x, params)
    changed = (y != x).flatten(1).any(1)
    blank = y[changed] != x[changed]
    assert (
        y[changed][blank] - x.mean((1, 2, 3))[changed].view(-1, 1, 1, 1).expand_as(blank)[blank]
    ).abs().max() < 1e-5


def test_time_roll_really_rolls_time_and_nothing_else() -> None:
    x = spectrograms()
    transform = TimeRoll(max_shift=0.5)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    shifts = params["shift"].tolist()
    assert min(shifts) < 0 < max(shifts) and max(map(abs, shifts)) <= 12
    for row, shift in enumerate(shifts):
        torch.testing.assert_close(y[row], x[row].roll(shift, dims=2), rtol=0, atol=0)
        assert shift == 0 or not torch.equal(y[row], x[row])


def test_gain_is_a_constant_in_the_logarithm() -> None:
    x = spectrograms()
    transform = Gain(decibels=(-6.0, 3.0))
    params = transform.draw(x.shape, draws())
    power = transform.apply(x, params).exp() / x.exp()
    expected = 10 ** (params["decibels"] / 10)
    torch.testing.assert_close(
        power, expected.view(-1, 1, 1, 1).expand_as(power), rtol=1e-4, atol=1e-4
    )
    assert params["decibels"].min() >= -6 and params["decibels"].max() <= 3


def test_gain_of_published_code_multiplies_the_waveform_by_half_plus_beta() -> None:
    """AudioMAE's and BRIDLE's source: 0.5 + Beta(10, 10), whose mean is 1 and variance 1/84."""
    params = Gain(beta=10.0).draw((4000, 1, 16, 24), draws(4000))
    amplitude = 10 ** (params["decibels"].double() / 20)
    assert amplitude.min() > 0.5 and amplitude.max() < 1.5
    assert amplitude.mean().item() == pytest.approx(1.0, abs=0.005)
    assert amplitude.var().item() == pytest.approx(1 / 84, rel=0.06)
    x = spectrograms(4)
    few = {"decibels": params["decibels"][:4]}
    changed = Gain(beta=10.0).apply(x, few)
    power = amplitude[:4].float().square().view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(changed.exp() / x.exp(), power, rtol=1e-4, atol=1e-4)


def test_frames_are_cut_at_every_position() -> None:
    x = torch.arange(24.0).expand(400, 1, 16, 24)
    transform = RandomFrames(frames=20)
    y = transform(x, draws(400))
    firsts = y[:, 0, 0, 0]
    assert sorted(torch.unique(firsts).tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(y, (firsts.view(-1, 1, 1, 1) + torch.arange(20.0)).expand_as(y))
    assert (
        RandomFrames(frames=30)(x, draws(400)) is x
        and RandomFrames(frames=30).output_shape((2, 1, 16, 24))[3] == 24
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogMixup(alpha=0.0), "`alpha` must be above 0 .*, got 0.0. Try 0.4"),
        (
            lambda: RandomResizeCrop(time=(1.5, 0.6)),
            r"`time` must be .* 0 < low <= high, got \(1.5, 0.6\). Try",
        ),
        (lambda: RandomResizeCrop(canvas=0.5), "`canvas` must be 1 or more, got 0.5. Try"),
        (
            lambda: SpecAugment(time=-1),
            "`frequency` and `time` must be 0 or more .*, got 48, -1 and 1. Try",
        ),
        (lambda: TimeRoll(max_shift=0.0), "`max_shift` must be above 0 .*, got 0.0. Use"),
        (
            lambda: Gain(decibels=(math.inf, math.inf)),
            r"`decibels` must be .* low <= high, got \(inf, inf\). Try",
        ),
        (lambda: Gain(beta=0.0), "`beta` must be positive, got 0.0. Try 10"),
        (lambda: RandomFrames(frames=0), "`frames` must be 1 or more, got 0. Try"),
    ],
)
def test_refuses(make: "type[Transform]", message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
