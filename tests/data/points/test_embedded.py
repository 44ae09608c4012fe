import numpy as np
import pytest
import torch

from mezzotint.data.points.embedded import Furniture
from mezzotint.data.source import Source


@pytest.fixture(scope="module")
def source() -> Furniture:
    return Furniture()


def test_what_is_in_it(source: Furniture) -> None:
    assert isinstance(source, Source) and source.in_memory
    assert source.evaluation()[1] and source.credit
    assert source.images.shape == (820, 3, 1024) and source.images.dtype == torch.float16
    assert len(set(source.ids)) == 820 and source.input.modality == "points"
    counts = np.bincount(source.labels[source.labels >= 0])
    named = dict(zip(source.classes, counts.tolist(), strict=True))
    assert named["seat"] == 69 and named["bed"] == 15 and counts.sum() == 332 and len(named) == 10
    assert len(source.room_names) == 12 and np.bincount(source.rooms).sum() == 820


def test_clouds_are_centered_upright_and_of_unit_radius(source: Furniture) -> None:
    points = source.images.double()
    assert points.mean(dim=2).abs().max() < 2e-3
    torch.testing.assert_close(
        points.norm(dim=1).amax(dim=1), torch.ones(820).double(), atol=2e-3, rtol=0
    )
    extent = points.amax(dim=2) - points.amin(dim=2)

    def of(name: str) -> torch.Tensor:
        return (
            extent[torch.from_numpy(source.labels == list(source.classes).index(name))]
            .median(dim=0)
            .values
        )

    for tall in ("opening", "lamp"):
        assert of(tall)[2] > 1.3 * of(tall)[1]
    assert of("sofa")[2] < 0.8 * of("sofa")[0] and of("bed")[2] < 0.8 * of("bed")[1]
    # Points lie in Morton order in the file; a coordinate is a whole number of steps.
    assert torch.equal((points * 1024).round() / 1024, points)


def test_normalized_clouds_have_one_scale_and_a_spread_of_one(source: Furniture) -> None:
    assert source.input.mean == (0.0, 0.0, 0.0) and len(set(source.input.std)) == 1
    x = source.input.normalize(source.input.as_float(source.read_batch(torch.arange(820))))
    assert x.square().mean().sqrt().item() == pytest.approx(1.0, abs=1e-4)


def test_splits_hold_out_three_tenths_and_tear_no_look_alikes(source: Furniture) -> None:
    _, (objects, rooms, few) = source.evaluation()
    assert (objects.name, rooms.name) == ("object/holdout", "room/holdout")
    assert few.name == "object/1-percent" and np.array_equal(few.test, objects.test)
    assert sorted(few.labels[few.train]) == list(range(10)) and set(few.train) < set(objects.train)
    for task in (objects, rooms):
        assert not set(task.train) & set(task.test) and (task.labels[task.train] >= 0).all()
        assert 0.25 < len(task.test) / (len(task.test) + len(task.train)) < 0.35
        torn = set(source.group[task.train]) & set(source.group[task.test])
        # A look-alike of another class belongs to its group's first class; none is on both sides.
        assert not torn
    assert (
        len(objects.train) + len(objects.test) == 332
        and len(np.unique(objects.labels[objects.test])) == 10
    )


def test_tuning_never_touches_what_is_scored_in_the_end(source: Furniture) -> None:
    final = {task.name.split("/")[0]: set(task.test) for task in source.evaluation()[1]}
    _, tasks = Furniture(part="tune").evaluation()
    assert len(tasks) == 8
    for task in tasks:
        used = set(task.train) | set(task.test)
        assert not used & final[task.name.split("/")[0]] and len(task.test) > 40
        assert not set(source.group[task.train]) & set(source.group[task.test])
    assert len({tuple(task.test) for task in tasks}) == 8


def test_look_alikes_are_the_variants(source: Furniture) -> None:
    def group(name: str) -> int:
        return int(source.group[source.ids.index(name)])

    assert group("Scopia/square-plug-TypeA") == group("Scopia/square-plug-TypeB")
    assert group("KatorLegaz/concept-sedan-02") == group("KatorLegaz/concept-sedan-02-sport")
    assert group("BlendSwap-CC-0/bed1") != group("Scopia/bed1")


def test_parts_have_names() -> None:
    with pytest.raises(ValueError, match="must be all or tune, got 'test'"):
        Furniture(part="test")  # type: ignore[arg-type]
