"""Collectives against one process that has all rows, on two processes over gloo."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as td

from mezzotint import dist
from tests.ranks import spawn

pytestmark = pytest.mark.xdist_group("dist")

WORLD = 2
CPU = torch.device("cpu")


def rows(rank: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def loss(x: torch.Tensor) -> torch.Tensor:
    """Each row's loss needs all rows, as a contrastive loss does."""
    return (x @ x.T).softmax(dim=1).diagonal().log().neg()


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=30),
    )
    x = rows(rank).requires_grad_()
    everything = dist.gather(x)
    own = loss(everything)[rank * 3 : rank * 3 + 3].mean()
    own.backward()
    assert x.grad is not None
    y = rows(rank).requires_grad_()
    (dist.mean(y) ** 2).sum().backward()
    assert y.grad is not None
    result: dict[str, Any] = {
        "rank": (dist.rank(), dist.world_size(), dist.is_main()),
        "gathered": everything.detach(),
        "gradient": x.grad,
        "mean": dist.mean(rows(rank)),
        "mean gradient": y.grad,
        "all": [dist.all_true(flag, CPU) for flag in (True, rank == 0)],
        "any": dist.any_true([rank == 0, rank == 1, False], CPU),
        "object": dist.broadcast_object(f"from {rank}"),
        "main": dist.on_main(lambda: f"ran on {dist.rank()}"),
    }
    try:
        dist.on_main(lambda: 1 // 0)
    except ZeroDivisionError as error:
        result["error"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    td.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(_worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def test_rows_are_in_rank_order_on_every_rank(results: list[dict[str, Any]]) -> None:
    expected = torch.cat([rows(rank) for rank in range(WORLD)])
    assert all(torch.equal(result["gathered"], expected) for result in results)
    assert [result["rank"] for result in results] == [(0, 2, True), (1, 2, False)]


def test_gradients_averaged_over_ranks_are_those_of_one_process(
    results: list[dict[str, Any]],
) -> None:
    x = torch.cat([rows(rank) for rank in range(WORLD)]).requires_grad_()
    loss(x).mean().backward()
    assert x.grad is not None
    # Each rank has the gradient of its own rows in the sum of all ranks' losses; DDP divides by 2.
    found = torch.cat([result["gradient"] for result in results]) / WORLD
    torch.testing.assert_close(found, x.grad)


def test_means_and_their_gradients(results: list[dict[str, Any]]) -> None:
    expected = sum(rows(rank) for rank in range(WORLD)) / WORLD
    for result in results:
        torch.testing.assert_close(result["mean"], expected)
        # Both ranks have the same loss; its gradient reaches each rank's rows through both means.
        torch.testing.assert_close(result["mean gradient"], 2 * expected)


def test_flags_objects_and_errors_reach_every_rank(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["all"] == [True, False] and result["any"] == [True, True, False]
        assert (result["object"], result["main"]) == ("from 0", "ran on 0")
        assert "division" in result["error"]


def test_one_process_needs_no_group() -> None:
    x = rows(0)
    assert (dist.rank(), dist.world_size(), dist.is_main()) == (0, 1, True)
    assert dist.gather(x) is x and dist.mean(x) is x
    assert dist.all_true(True, CPU) and dist.any_true([False, True], CPU) == [False, True]
    assert dist.on_main(lambda: 7) == dist.broadcast_object(7) == 7
    with dist.process_group(CPU):
        assert dist.world_size() == 1
    with dist.no_sync(torch.nn.Linear(1, 1), True):
        pass
