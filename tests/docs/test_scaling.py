"""The formulas of the page on scaling against counted bytes."""

import pytest

from benchmarks.scaling import (
    INPUT,
    RUNS,
    TRAFFIC,
    Sizes,
    Traffic,
    activation_bytes,
    check,
    expected,
    kept_bytes,
    sizes_of,
    state_bytes,
)
from mezzotint.methods.mocov3 import MoCoV3
from mezzotint.optim.optimizer import AdamW
from mezzotint.recipe.signatures import index
from mezzotint.train.state import optimizer_state
from tests import ROOT
from tests.test_contract_methods import build, views_for


@pytest.fixture(scope="module")
def counted() -> dict[str, list[float]]:
    return check(2, list(TRAFFIC))


@pytest.mark.xdist_group("scaling")
@pytest.mark.parametrize("name", TRAFFIC)
def test_two_processes_send_what_the_formulas_say(
    name: str, counted: dict[str, list[float]]
) -> None:
    reduced, gathered, computed_reduced, computed_gathered = counted[name]
    assert (reduced, gathered) == (computed_reduced, computed_gathered) and reduced > 0


@pytest.mark.slow
def test_four_processes_send_what_the_formulas_say() -> None:
    for name, (reduced, gathered, *computed) in check(4, list(TRAFFIC)).items():
        assert [reduced, gathered] == computed, name


def test_the_formulas_are_those_of_known_methods() -> None:
    assert TRAFFIC.keys() <= index().members("Method").keys()


def test_a_ring_sends() -> None:
    assert Traffic(reduced=8.0).sent(2) == 8.0 and Traffic(gathered=8.0).sent(4) == 24.0
    assert Traffic(1.0, 2.0) + Traffic(3.0, 4.0) == Traffic(4.0, 6.0)
    assert expected("mae", Sizes(8, 4, 1, 0, 10)).sent(8) == pytest.approx(70.0)


@pytest.mark.parametrize(("width", "heads", "patch", "samples"), [(32, 2, 4, 3), (48, 4, 8, 5)])
def test_a_vit_keeps_what_the_formula_says(
    width: int, heads: int, patch: int, samples: int
) -> None:
    deep, shallow = (kept_bytes(depth, width, heads, patch, samples) for depth in (3, 1))
    tokens = (INPUT.shape[1] // patch) ** 2
    assert deep - shallow == samples * activation_bytes(tokens, width, 2, heads)


def test_the_state_is_what_the_formula_says() -> None:
    method = build(MoCoV3)
    optimizer = AdamW(lr=0.1).build(method, 256)
    method(views_for(MoCoV3, 4)).loss.backward()
    optimizer.step()
    trained = [p for p in method.parameters() if p.requires_grad]
    copied = sum(p.numel() for p in method.parameters() if not p.requires_grad)
    moments = [t for t in optimizer_state(optimizer).values() if t.ndim]
    gradients = [p.grad for p in trained if p.grad is not None]
    tensors = [*method.parameters(), *gradients, *moments]
    held = sum(t.numel() * t.element_size() for t in tensors)
    assert held == state_bytes(Sizes(1, 4, 2, 8, sum(p.numel() for p in trained)), copied)


def test_large_runs_are_sized_without_being_made() -> None:
    x, keys = sizes_of("MoCo v3, ViT-S/16", 64)
    predictor = 256 * 4096 + 2 * 4096 + 4096 * 256  # two linear layers, and the BatchNorm's
    assert x.p - keys == predictor and keys > 40_000_000
    assert x.b == 64 and len(RUNS) > 4


def test_the_page_has_the_formulas() -> None:
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    lines = [line for line in page.split("## Communication")[1].splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    found = {name: (reduced, gathered) for name, reduced, gathered in rows}
    assert found["SimCLR"] == ("4 n V B D", "4 V B D") and found["MoCo v3"][1] == "8 B D"
