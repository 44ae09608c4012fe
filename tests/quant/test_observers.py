"""Observers against closed forms and brute force, at every step, and over two processes."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as td
from torch import Tensor

from mezzotint.quant.clipping_observers import MSE, Entropy, Percentile
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.quant.grid import Scheme
from mezzotint.quant.observers import Gaussian, MinMax, MomentumMinMax, Observer
from tests.ranks import spawn

MAKE: dict[str, Callable[[], Observer]] = {
    "min_max": MinMax,
    "momentum_min_max": MomentumMinMax,
    "percentile": lambda: Percentile(alpha=0.01),
    "percentile_both": lambda: Percentile(alpha=0.01, tails="both"),
    "mse": MSE,
    "mse_2.4": lambda: MSE(norm=2.4),
    "entropy": Entropy,
    "gaussian": Gaussian,
}
SCHEMES: list[Scheme] = ["ssql_symmetric", "ssql_asymmetric", "symmetric", "affine"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranges(
    observer: Observer, *parts: Tensor, scheme: Scheme = "affine", bits: int = 4
) -> tuple[Tensor, Tensor]:
    for rows in parts:
        observer.update(rows)
    low, high = observer.range(scheme, bits)
    return low, high


@pytest.mark.parametrize(
    "name", ["min_max", "momentum_min_max", "percentile", "mse", "entropy", "gaussian"]
)
def test_kinds(name: str) -> None:
    assert MAKE[name]().config["kind"] == name


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [3])
def test_every_row_has_the_range_that_it_would_have_alone(
    name: str, scheme: Scheme, bits: int
) -> None:
    rows = torch.stack(
        [normal(900), normal(900, seed=1).relu() * 7, normal(900, seed=2) * 1e-3 - 5e-3]
    )
    low, high = ranges(MAKE[name](), rows, scheme=scheme, bits=bits)
    assert low.shape == high.shape == (3, 1) and (low <= high).all()
    for index in range(3):
        alone = ranges(MAKE[name](), rows[index : index + 1], scheme=scheme, bits=bits)
        torch.testing.assert_close(
            (low[index], high[index]), (alone[0][0], alone[1][0]), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("name", [name for name in MAKE if name != "momentum_min_max"])
def test_several_updates_count_as_one(name: str) -> None:
    rows = normal(2, 4000) * torch.tensor([[1.0], [50.0]])
    rows[:, 3500:] *= 9.0  # the range grows on the way
    whole = ranges(MAKE[name](), rows)
    parts = ranges(MAKE[name](), *rows.split(500, 1))
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MAKE)
def test_in_the_step_path(name: str) -> None:
    """Reset, collect, set bits and quantize at every step, where SSQL's source crashes."""
    quantizer = ActivationQuantizer(observer=MAKE[name]())
    for step in range(4):
        quantizer.observer.reset()
        quantizer.mode = "observe"
        x = normal(8, 4, 5, 5, seed=step)
        quantizer(x)
        quantizer(x * 2)
        quantizer.observer.synchronize()
        quantizer.mode = "quantize"
        for bits in (4, torch.tensor(3.0)):
            quantizer.set_bits(bits)
            out = quantizer(x.requires_grad_())
            out.sum().backward()
            levels = 2 ** int(bits)
            assert out.isfinite().all() and 2 <= len(out.unique()) <= levels


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_on_weights(name: str, granularity: str) -> None:
    layout = {"tensor": Layout(), "channel": Layout("channel"), "group": Layout("group", group=16)}[
        granularity
    ]
    weight = normal(6, 5, 3, 3)
    quantizer = WeightQuantizer(layout, observer=MAKE[name]())
    quantizer.mode = "quantize"
    errors = []
    for bits in (2, 4, 8):
        quantizer.set_bits(bits)
        quantizer.fit(weight)
        errors.append(float((quantizer(weight) - weight).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert ("low" in quantizer.state_dict()) == (name != "min_max")


@pytest.mark.parametrize("name", MAKE)
def test_zeros_constants_and_what_is_not_finite(name: str) -> None:
    rows = torch.stack([torch.zeros(50), torch.full((50,), 3.0), normal(50), normal(50)])
    rows[3, 7] = torch.nan
    low, high = ranges(MAKE[name](), rows, scheme="affine", bits=4)
    assert low[0] == high[0] == 0.0
    assert low[1].item() == pytest.approx(3.0, rel=0.02) and high[1].item() == pytest.approx(
        3.0, rel=0.02
    )
    assert not (low[3].isfinite() & high[3].isfinite()).all()
    assert low[:3].isfinite().all() and high[:3].isfinite().all()


def test_momentum_averages_the_extremes_of_each_collection() -> None:
    observer = MomentumMinMax(momentum=0.9)
    expected: list[float] = []
    for step, peak in enumerate([4.0, 2.0, 8.0]):
        observer.reset()
        observer.update(torch.tensor([[-peak / 2, peak / 4]]))
        observer.update(torch.tensor([[peak, 0.0]]))
        now = [-peak / 2, peak]
        expected = [0.9 * a + 0.1 * b for a, b in zip(expected, now, strict=True)] if step else now
        assert [v.item() for v in observer.range("affine", 8)] == pytest.approx(expected)
        assert [v.item() for v in observer.range("affine", 2)] == pytest.approx(
            expected
        )  # asking changes nothing


def test_momentum_survives_saving() -> None:
    quantizer = ActivationQuantizer(observer=MomentumMinMax())
    quantizer.mode = "observe"
    quantizer(normal(4, 4))
    quantizer.refresh()
    quantizer.observer.reset()
    other = ActivationQuantizer(observer=MomentumMinMax())
    other.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    for one in (quantizer, other):
        one.observer.update(normal(1, 16, seed=1) * 3)
        one.refresh()
    assert torch.equal(quantizer.high, other.high) and quantizer.high != quantizer.observer.now.high  # type: ignore[union-attr]


def test_gaussian_is_mean_and_deviation_within_the_extremes() -> None:
    rows = normal(1, 100_000) * 2 + 1
    low, high = ranges(Gaussian(sigmas=2.0), rows[:, :60_000], rows[:, 60_000:])
    torch.testing.assert_close(
        low[0, 0], rows.mean() - 2 * rows.std(unbiased=False), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        high[0, 0], rows.mean() + 2 * rows.std(unbiased=False), rtol=1e-5, atol=0
    )
    assert ranges(Gaussian(), rows.relu())[0].item() == 0.0


def test_update_waits_for_no_device() -> None:
    """On a meta tensor every synchronization raises."""
    for make in MAKE.values():
        observer = make().to("meta")
        observer.update(torch.empty(3, 50, device="meta"))
        low, _ = observer.range("affine", torch.empty((), device="meta"))
        assert low.shape == (3, 1)


@pytest.mark.parametrize("bad", [lambda: MomentumMinMax(momentum=1.0), lambda: Gaussian(sigmas=0.0),
                                 lambda: Percentile(alpha=1.0), lambda: MSE(norm=0.5)])  # fmt: skip
def test_bad_arguments(bad: Callable[[], Observer]) -> None:
    with pytest.raises(ValueError, match="must be (at least|positive)"):
        bad()


SYNCHRONIZED: tuple[tuple[Scheme, int], ...] = (("affine", 4), ("ssql_symmetric", 2))


def _worker(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    rows = normal(3, 2000) * torch.tensor([[1.0], [9.0], [0.01]])
    rows[0, 1900] = 40.0
    own = rows[:, :700] if rank == 0 else rows[:, 700:]
    for name, make in MAKE.items():
        observer, alone = make(), make()
        observer.update(own)
        observer.synchronize()
        alone.update(rows)
        for scheme, bits in SYNCHRONIZED:
            pooled, whole = observer.range(scheme, bits), alone.range(scheme, bits)
            rtol = 1e-6 if name == "gaussian" else 0.0
            torch.testing.assert_close(pooled, whole, rtol=rtol, atol=0.0, msg=name)
    Path(f"{meeting}-{rank}").touch()
    td.destroy_process_group()


def test_two_processes_see_what_one_would(tmp_path: Path) -> None:
    spawn(_worker, args=(str(tmp_path / "meeting"),), nprocs=2)
    assert {path.name for path in tmp_path.glob("meeting-*")} == {"meeting-0", "meeting-1"}
