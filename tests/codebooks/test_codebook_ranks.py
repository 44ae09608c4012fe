"""Two gloo ranks have identical codes, equal to those of one process with all vectors."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.codebooks import EMA, RQ, VQ
from mezzotint.codebooks.kmeans import RowSample
from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.seeding import Draws, key_of
from tests.ranks import spawn

pytestmark = pytest.mark.xdist_group("codebook_ranks")

STEPS = 20
DIM, CODES, ROWS = 8, 24, 240
OFTEN = EMA(expire_every=4, expire_below=0.3, decay=0.8)
OFTEN_NORM = EMA(rule="norm", expire_every=4, expire_below=0.3, decay=0.8)
MAKE: dict[str, Callable[[], LearnedCodebook]] = {
    "vq": lambda: VQ(dim=DIM, num_codes=CODES, ema=OFTEN),
    "vq_sphere": lambda: VQ(
        dim=DIM, num_codes=CODES, metric="euclidean", init="uniform_sphere", ema=OFTEN
    ),
    "vq_data": lambda: VQ(dim=DIM, num_codes=CODES, init="data", ema=OFTEN_NORM),
    "rq": lambda: RQ(dim=DIM, num_codes=CODES, num_levels=3, ema=OFTEN),
    "rq_shared": lambda: RQ(dim=DIM, num_codes=CODES, num_levels=3, shared=True, ema=OFTEN),
    "rq_bridle": lambda: RQ(
        dim=DIM, num_codes=CODES, num_levels=3, residual="bridle", ema=OFTEN_NORM
    ),
}


def batch(step: int) -> Tensor:
    """Clusters that move slowly; half of them come and go, so that codes expire."""
    centers = Draws(torch.arange(20), key_of("ranks")).normal("centers", DIM) * 3.0
    rows = Draws(torch.arange(ROWS), key_of("ranks", step))
    member = rows.integers("member", high=20 if step % 8 < 4 else 10)
    return centers[member] + 0.02 * step + 0.3 * rows.normal("x", DIM)


def part_of(step: int, rank: int) -> slice:
    """Ranks have different numbers of rows, and once one has none."""
    cut = 0 if step == 7 else 90
    return slice(0, cut) if rank == 0 else slice(cut, ROWS)


def train(codebook: LearnedCodebook, rank: int | None) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    for step in range(STEPS):
        z = batch(step)
        codes = codebook(z if rank is None else z[part_of(step, rank)])
        if step == 0:
            results |= {
                f"first.{name}": value.clone() for name, value in codebook.state_dict().items()
            }
        results[f"codes{step}"] = codes.indices
    return results | {name: value.clone() for name, value in codebook.state_dict().items()}


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    made_before = {
        name: make() for name, make in MAKE.items()
    }  # what is decided at construction would not be pooled
    td.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    results: dict[str, Any] = {}
    for name, codebook in made_before.items():
        torch.manual_seed(rank)
        results[name] = train(codebook, rank)
        codebook.check_ranks()
    sample = RowSample(90 if rank == 0 else 150, 30, 5, torch.device("cpu"))
    results["sample"] = sample.take(batch(0)[part_of(0, rank)])
    results["errors"] = []
    try:
        VQ(dim=DIM, num_codes=ROWS + 1)(batch(0)[part_of(0, rank)])
    except ValueError as error:
        results["errors"].append(str(error))
    poisoned = batch(0)[part_of(0, rank)].clone()
    if rank == 1:
        poisoned[3, 3] = torch.nan
    try:
        VQ(dim=DIM, num_codes=CODES)(poisoned)
    except ValueError as error:
        results["errors"].append(str(error))
    before = made_before["rq"].books.vectors.clone()
    made_before["rq"](poisoned)
    results["survived"] = torch.equal(before, made_before["rq"].books.vectors)
    if rank == 1:
        made_before["vq"].books.vectors[0, 0, 0] += 1e-6
    try:
        made_before["vq"].check_ranks()
    except RuntimeError as error:
        results["errors"].append(str(error))
    torch.save(results, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder: Path = tmp_path_factory.mktemp("codebooks")
    spawn(_worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", MAKE)
def test_books_of_two_ranks_are_identical_and_those_of_one_process(
    name: str, two_ranks: list[Any]
) -> None:
    """Regression: BRIDLE's ranks initialize alone, and agree on 0.05 % of the codes."""
    alone = train(MAKE[name](), None)
    zero, one = (results[name] for results in two_ranks)
    for key, expected in alone.items():
        if key.startswith("codes"):
            torch.testing.assert_close(torch.cat([zero[key], one[key]]), expected, msg=key)
        else:
            assert torch.equal(zero[key], one[key]), key
            torch.testing.assert_close(zero[key], expected, rtol=1e-4, atol=1e-5, msg=key)
    expired = (alone["first.books.vectors"] != alone["books.vectors"]).any(-1).float().mean()
    assert expired > 0.9  # most codes moved


def test_the_run_replaces_codes() -> None:
    """So that the test above covers expiry."""
    codebook = MAKE["rq"]()
    jumps = 0
    for step in range(STEPS):
        before = codebook.books.vectors.clone()
        codebook(batch(step))
        jumps += int(((codebook.books.vectors - before).norm(dim=-1) > 0.5).sum()) if step else 0
    assert jumps > 3


def test_rows_are_drawn_alike_however_they_are_split(two_ranks: list[Any]) -> None:
    alone = RowSample(ROWS, 30, 5, torch.device("cpu")).take(batch(0))
    assert all(torch.equal(results["sample"], alone) for results in two_ranks)


def test_all_ranks_refuse_together(two_ranks: list[Any]) -> None:
    for results in two_ranks:
        few, nan, apart = results["errors"]
        assert f"got {ROWS} vectors for {ROWS + 1} codes." in few
        assert nan.startswith("Vectors must be finite, got NaN or inf.")
        assert apart.startswith("All 2 ranks must have the same codes, got different ones")


def test_nan_on_one_rank_harms_no_rank(two_ranks: list[Any]) -> None:
    assert all(results["survived"] for results in two_ranks)


def test_checksum_sees_every_bit() -> None:
    codebook = MAKE["vq"]()
    codebook(batch(0))
    codebook.check_ranks()
    sums = {int(codebook.books.checksum())}
    for index in ((0, 0, 0), (0, 3, 5), (0, 23, 7)):
        codebook.books.vectors[index] = torch.nextafter(
            codebook.books.vectors[index], torch.tensor(9.0)
        )
        sums.add(int(codebook.books.checksum()))
    codebook.books.counts[0, 4] += 1.0
    assert len(sums | {int(codebook.books.checksum())}) == 5
    assert not torch.equal(normalize(codebook.books.vectors, dim=-1), torch.zeros(1))
