"""Synchronized BatchNorm: two processes against one with the full batch, and against torch."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint.encoders.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from tests.ranks import spawn


def randomized(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.3, generator=generator)
    return norm


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (8, 3)),
    "1d sequence": (lambda: nn.BatchNorm1d(3, momentum=0.3), (8, 3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3, eps=1e-3), (8, 3, 4, 4)),
    "no affine": (lambda: nn.BatchNorm2d(3, affine=False), (8, 3, 4, 4)),
    "cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
    "untracked": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 4)),
    "one row a rank": (lambda: nn.BatchNorm1d(3), (2, 3)),
    "3d": (lambda: nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
}


def data(shape: tuple[int, ...], step: int) -> tuple[Tensor, Tensor]:
    """Inputs far from 0, whose halves differ in mean and scale, and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(shape, generator=generator) + 30.0
    x[len(x) // 2 :] = x[len(x) // 2 :] * 3.0 - 10.0
    return x, torch.randn(shape, generator=generator)


def run(norm: nn.Module, shape: tuple[int, ...], part: slice) -> dict[str, Tensor]:
    """Two training steps and one pass in eval mode over some rows."""
    results: dict[str, Tensor] = {}
    for step in range(2):
        x, weight = (t[part] for t in data(shape, step))
        x = x.clone().requires_grad_()
        out = norm(x)
        (out * weight).sum().backward()
        assert x.grad is not None
        results |= {f"out{step}": out.detach(), f"grad{step}": x.grad}
    results |= {
        f"grad.{name}": p.grad.clone() for name, p in norm.named_parameters() if p.grad is not None
    }
    results |= {name: b.detach().clone() for name, b in norm.named_buffers()}
    results["eval"] = norm.eval()(data(shape, 2)[0][part]).detach()
    return results


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    results = {}
    for name, (make, shape) in CASES.items():
        half = shape[0] // 2
        norm = synchronize_batch_norm(randomized(make()))
        results[name] = run(norm, shape, slice(rank * half, (rank + 1) * half))
    torch.save(results, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder: Path = tmp_path_factory.mktemp("batch_norm")
    spawn(_worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.xdist_group("batch_norm_ranks")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_the_full_batch(name: str, two_processes: list[Any]) -> None:
    make, shape = CASES[name]
    expected = run(randomized(make()), shape, slice(None))  # torch's own
    ranks = [results[name] for results in two_processes]
    by_rows = {"out0", "out1", "grad0", "grad1"} | ({"eval"} if name != "untracked" else set())
    for key, value in expected.items():
        if key in by_rows:
            found = torch.cat([r[key] for r in ranks])
        elif key.startswith("grad."):
            found = ranks[0][key] + ranks[1][key]  # each rank has its rows' share
        elif key == "eval":
            # Without running statistics, eval uses the batch of the rank, as SyncBatchNorm does.
            continue
        else:
            found = ranks[0][key]
            assert torch.equal(found, ranks[1][key])
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_one_process_is_torch_to_the_bit(name: str) -> None:
    make, shape = CASES[name]
    found = run(synchronize_batch_norm(randomized(make())), shape, slice(None))
    expected = run(randomized(make()), shape, slice(None))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_conversion_keeps_everything_and_copies_nothing() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.Sequential(nn.BatchNorm2d(4, eps=1e-2, momentum=0.7).eval()),
        nn.ReLU(),
    )
    before = dict(net.named_parameters()) | dict(net.named_buffers())
    state = {name: t.clone() for name, t in net.state_dict().items()}
    assert synchronize_batch_norm(net) is net
    norm = net.get_submodule("1.0")
    assert isinstance(norm, SynchronizedBatchNorm)
    assert (norm.eps, norm.momentum, norm.training) == (1e-2, 0.7, False)
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert net.state_dict().keys() == state.keys()
    assert synchronize_batch_norm(net).get_submodule("1.0") is norm  # a second time changes nothing
    assert isinstance(synchronize_batch_norm(nn.BatchNorm1d(2)), SynchronizedBatchNorm)


def test_norms_with_an_activation_of_timm_keep_it() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    fused = timm.layers.BatchNormAct2d(3, act_layer="relu")
    x = torch.randn(4, 3, 2, 2)
    expected = fused(x.clone())
    fused.reset_running_stats()
    converted = synchronize_batch_norm(fused)
    assert isinstance(converted, SynchronizedBatchNorm)
    assert torch.equal(converted(x), expected) and expected.min().item() == 0.0


def test_an_unknown_batch_norm_is_refused() -> None:
    class Special(nn.BatchNorm2d):
        pass

    with pytest.raises(TypeError, match="Special cannot be synchronized. Supported: .* Replace it"):
        synchronize_batch_norm(nn.Sequential(Special(3)))
