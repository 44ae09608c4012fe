import hashlib
import pickle
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from sklearn.datasets import load_digits

from mezzotint.data.image import embedded as samples
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.memory import moments
from mezzotint.data.source import Index, Source, Task

EMBEDDED = Path(samples.__file__).parent.parent / "embedded"


def tasks_of(source: EmbeddedImages) -> dict[str, Task]:
    return {task.name: task for task in source.evaluation()[1]}


def drawings(source: EmbeddedImages) -> Index:
    """A number for each image, the same for images with the same pixels."""
    seen: dict[bytes, int] = {}
    return np.array(
        [seen.setdefault(image.numpy().tobytes(), len(seen)) for image in source.images]
    )


def test_embedded_files_are_those_that_were_made() -> None:
    listed = [line.split() for line in (EMBEDDED / "CHECKSUMS").read_text().splitlines()]
    present = sorted(path.name for path in EMBEDDED.iterdir() if path.name != "CHECKSUMS")
    assert sorted(name for _, name in listed) == present
    for digest, name in listed:
        assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == digest
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 15_000_000


@pytest.mark.parametrize("name", ["emoji.npz", "mnist5k.npz", "emoji.json"])
def test_a_flipped_bit_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "embedded")
    content = bytearray((EMBEDDED / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "embedded" / name).write_bytes(content)
    monkeypatch.setattr(samples, "_FOLDER", tmp_path / "embedded")
    with pytest.raises(ValueError, match=f"{name} has SHA-256 .*, but must have .* Install"):
        samples.embedded_file(name)


@pytest.mark.parametrize("name", get_args(samples.Name))
def test_states_what_it_holds(name: samples.Name) -> None:
    source = EmbeddedImages(name=name)
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    assert (
        source.images.dtype == torch.uint8 and tuple(source.images.shape[1:]) == source.input.shape
    )
    mean, std = moments(source.images)
    np.testing.assert_allclose(source.input.mean, mean, atol=5e-5)
    np.testing.assert_allclose(source.input.std, std, atol=5e-5)
    rows = torch.tensor([len(source) - 1, 0])
    assert torch.equal(
        source.read_batch(rows), torch.stack([source.read(i)["x"] for i in rows.tolist()])
    )
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint() == source.fingerprint() and copy.config == {
        "kind": "embedded_images",
        "name": name,
    }


def test_moments_are_those_of_the_float_pixels() -> None:
    images = torch.randint(
        0, 256, (5000, 2, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = moments(images)
    unit = images.double() / 255
    np.testing.assert_allclose(mean, unit.mean(dim=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std(dim=(0, 2, 3), correction=0), rtol=1e-12)


def test_emoji_come_in_two_styles() -> None:
    source = EmbeddedImages()
    assert len(source) == 2 * 1911 and source.styles == ("google", "twitter")
    ids = [source.read(i)["id"] for i in range(len(source))]
    assert len(set(ids)) == len(ids)
    assert [i.partition("/")[2] for i in ids[:1911]] == [i.partition("/")[2] for i in ids[1911:]]
    task = tasks_of(source)["category/across-styles"]
    for name, category in [
        ("grinning", "Smileys & Emotion"),
        ("pizza", "Food & Drink"),
        ("fr", "Flags"),
    ]:
        for style in source.styles:
            label = source.read(ids.index(f"{style}/{name}"))["label"]
            assert isinstance(label, int) and task.classes[label] == category
    assert (
        len(task.classes) == 10 and len(tasks_of(source)["subcategory/across-styles"].classes) == 99
    )


def test_emoji_across_styles_learns_from_one_and_is_scored_on_the_other() -> None:
    tasks = tasks_of(EmbeddedImages())
    for name in ("category/across-styles", "subcategory/across-styles"):
        task = tasks[name]
        assert task.train.tolist() == list(range(1911)) and task.test.tolist() == list(
            range(1911, 3822)
        )
        np.testing.assert_array_equal(task.labels[task.train], task.labels[task.test])
    identity = tasks["identity/across-styles"]
    assert identity.kind == "retrieve"
    assert identity.train.tolist() == list(range(1911)) and identity.test.tolist() == list(
        range(1911, 3822)
    )
    np.testing.assert_array_equal(identity.labels[identity.test], identity.labels[identity.train])
    assert len(set(identity.labels[identity.train].tolist())) == 1911


@pytest.mark.parametrize("part", get_args(samples.Part))
def test_emoji_within_a_style_hold_out_a_fifth_and_no_look_alike(part: samples.Part) -> None:
    source = EmbeddedImages(part=part)
    tasks = tasks_of(source)
    one, other = tasks["category/within-style"], tasks["category/within-twitter"]
    np.testing.assert_array_equal(one.test + 1911, other.test)
    np.testing.assert_array_equal(one.train + 1911, other.train)
    drawing = drawings(source)
    for task in (one, other):
        assert not set(drawing[task.train]) & set(drawing[task.test])
        everything = np.bincount(task.labels[task.train], minlength=10) + np.bincount(
            task.labels[task.test], minlength=10
        )
        rest = np.bincount(task.labels[task.test], minlength=10)
        assert (np.abs(rest - 0.2 * everything) <= np.maximum(1, 0.04 * everything)).all()


def test_emoji_parts_share_nothing_and_make_up_the_whole() -> None:
    whole, tune, rest = (
        tasks_of(EmbeddedImages(part=part)) for part in ("all", "tune", "held_out")
    )
    drawing = drawings(EmbeddedImages())
    for name, task in whole.items():
        for side in ("train", "test"):
            a, b = (set(getattr(tasks[name], side).tolist()) for tasks in (tune, rest))
            assert not a & b and a | b == set(getattr(task, side).tolist())
        seen = {int(drawing[i]) for i in (*tune[name].train, *tune[name].test)}
        assert not seen & {int(drawing[i]) for i in rest[name].test}
    sizes = [
        np.bincount(t["category/across-styles"].labels[t["category/across-styles"].test])
        for t in (tune, rest)
    ]
    assert (np.abs(sizes[0] - sizes[1]) <= np.maximum(1, 0.05 * (sizes[0] + sizes[1]))).all()


def test_identity_can_be_right_on_at_most_098() -> None:
    source = EmbeddedImages()
    drawing = drawings(source)
    ones = np.ones(1911)
    graph = csr_matrix((ones, (drawing[:1911], drawing[1911:])), shape=(len(source), len(source)))
    best = (maximum_bipartite_matching(graph) >= 0).sum() / 1911
    assert best == pytest.approx(0.982, abs=5e-4)


def test_raw_pixels_find_the_same_emoji_as_measured_before() -> None:
    source = EmbeddedImages()
    task = tasks_of(source)["identity/across-styles"]
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (source.input.mean, source.input.std)
    )
    x = torch.nn.functional.normalize(((source.images / 255 - mean) / std).flatten(1), dim=1)
    nearest = (x[task.test] @ x[task.train].T).argmax(dim=1).numpy()
    found = (task.labels[task.train][nearest] == task.labels[task.test]).mean()
    assert found == pytest.approx(0.374, abs=0.003)


@pytest.mark.parametrize(("name", "size"), [("mnist5k", 5000), ("digits", 1797)])
def test_digits_hold_out_a_fifth_of_each(name: samples.Name, size: int) -> None:
    whole, tune, rest = (
        tasks_of(EmbeddedImages(name=name, part=p))["digit/holdout"]
        for p in ("all", "tune", "held_out")
    )
    assert len(whole.train) + len(whole.test) == size and not set(whole.train.tolist()) & set(
        whole.test.tolist()
    )
    np.testing.assert_allclose(
        np.bincount(whole.labels[whole.test]), 0.2 * np.bincount(whole.labels), atol=1.5
    )
    assert sorted([*tune.test, *rest.test]) == whole.test.tolist()
    assert sorted([*tune.train, *rest.train]) == whole.train.tolist()


def test_digits_are_those_of_scikit_learn() -> None:
    source, original = EmbeddedImages(name="digits"), load_digits()
    np.testing.assert_allclose(
        source.images[:, 0].numpy() / 255 * 16, original.images, atol=0.5 / 255 * 16
    )
    np.testing.assert_array_equal(source.labels, original.target)


def test_mnist5k_can_be_told_apart() -> None:
    source = EmbeddedImages(name="mnist5k")
    assert np.bincount(source.labels).tolist() == [500] * 10
    task = tasks_of(source)["digit/holdout"]
    x = torch.nn.functional.normalize(source.images.flatten(1).float(), dim=1)
    nearest = (x[task.test] @ x[task.train].T).argmax(dim=1).numpy()
    assert (task.labels[task.train][nearest] == task.labels[task.test]).mean() > 0.93


def test_refuses_what_it_does_not_have() -> None:
    with pytest.raises(
        ValueError, match="`name` must be one of emoji, mnist5k, digits, got 'cats'. Choose"
    ):
        EmbeddedImages(name="cats")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="`part` must be all, tune or held_out, got 'best'. Choose"
    ):
        EmbeddedImages(part="best")  # type: ignore[arg-type]
