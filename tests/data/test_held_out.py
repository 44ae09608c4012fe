"""Held-out parts are independent in every source: copies, people and sessions stay on one side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.doctor import examine, examine_source
from mezzotint.data.image.arrays import Arrays
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image_tags import ImageTags
from mezzotint.data.image_text import CaptionedImages
from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.series.series import Series
from mezzotint.data.source import Source
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.tokens import Tokens

RNG = np.random.default_rng(3)


def table(root: Path, **columns: Any) -> str:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (root / "x.csv").write_text("\n".join(lines) + "\n")
    return str(root / "x.csv")


def sides(source: Source) -> tuple[set[bytes], set[bytes]]:
    """Contents of the samples to learn from, and of those to score."""
    both, (task, *_) = source.evaluation()
    assert len(task.test) and len(task.train)
    read: Any = lambda part: {both.read(int(i))["x"].numpy().tobytes() for i in part}  # noqa: E731
    return read(task.train), read(task.test)


def pictures(root: Path, count: int, copies: int = 1) -> list[str]:
    for i in range(count):
        pixels = np.random.default_rng(i // copies).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02}.png")
    return [f"{i:02}.png" for i in range(count)]


def test_equal_rows_of_a_table(tmp_path: Path) -> None:
    values = np.repeat(RNG.normal(size=20), 3)
    path = table(tmp_path, a=values, label=["xy"[i // 3 % 2] for i in range(60)])
    train, test = sides(Table(path=path))
    assert not train & test
    assert "40 more of the same content" in Table(path=path).outcome()


def test_people_of_a_table_are_no_feature(tmp_path: Path) -> None:
    who, label = [i // 4 for i in range(40)], ["xy"[i // 4 % 2] for i in range(40)]
    columns = {"a": RNG.normal(size=40), "patient_id": who, "label": label}
    source = Table(path=table(tmp_path, **columns))
    assert source.features == ["a"]
    assert any(u.name == "patient_id" and u.use == "left out" for u in source.columns)
    both, (task,) = source.evaluation()
    person = [who[int(both.id_of(i).rpartition("/")[2])] for i in range(40)]
    assert not {person[i] for i in task.train} & {person[i] for i in task.test}
    # A column of few kinds is a feature, unless it is named.
    columns = {"a": RNG.normal(size=40), "group": ["uv"[i % 2] for i in range(40)], "label": label}
    assert "group=u" in Table(path=table(tmp_path, **columns)).features
    assert Table(path=str(tmp_path / "x.csv"), group="group").features == ["a"]
    with pytest.raises(ValueError, match="has no column 'grop'.*Correct `data.group`"):
        Table(path=str(tmp_path / "x.csv"), group="grop")


@pytest.mark.parametrize("other", ["val", "Test"])
def test_a_column_of_splits_is_the_split_of_a_table(other: str, tmp_path: Path) -> None:
    split = ["Train"] * 12 + [other] * 6 + ["testing"] * 3
    label = ["xy"[i % 2] for i in range(18)] + [""] * 3
    source = Table(path=table(tmp_path, a=RNG.normal(size=21), label=label, split=split))
    both, (task,) = source.evaluation()
    assert source.features == ["a"] and len(source) == 12
    assert task.name == f"label/{other.lower()}" and task.train.tolist() == list(range(12))
    assert task.test.tolist() == list(range(12, 18))
    if other == "val":
        assert len(both) == 18 and "3 rows of other splits are neither" in source.outcome()


def test_equal_texts_and_texts_of_one_person(tmp_path: Path) -> None:
    text, label = [f"text {i // 3}" for i in range(30)], ["xy"[i // 3 % 2] for i in range(30)]
    train, test = sides(Tokens(path=table(tmp_path, text=text, label=label), length=12))
    assert not train & test
    who = [f"p{i // 5}" for i in range(30)]
    label = ["xy"[i // 5 % 2] for i in range(30)]
    text = [f"text {i}" for i in range(30)]
    source = Tokens(path=table(tmp_path, text=text, label=label, speaker=who), length=12)
    both, (task,) = source.evaluation()
    person = [who[int(both.id_of(i).rpartition("/")[2])] for i in range(30)]
    assert not {person[i] for i in task.train} & {person[i] for i in task.test}
    split = ["train"] * 20 + ["dev"] * 10
    source = Tokens(path=table(tmp_path, text=text, label=label, split=split), length=12)
    assert len(source) == 20 and source.evaluation()[1][0].name == "label/val"


def test_lines_of_one_file_and_files_named_as_splits(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / "docs" / c).mkdir(parents=True)
        for n in range(4):
            (tmp_path / "docs" / c / f"{n}.txt").write_text(
                "\n".join(f"{c} {n} {i}" for i in range(5))
            )
    source = Tokens(path=str(tmp_path / "docs"), length=12)
    both, (task,) = source.evaluation()
    file = [both.id_of(i).partition(":")[0] for i in range(len(both))]
    assert len(task.test) == 10 and not {file[i] for i in task.test} & {file[i] for i in task.train}
    (tmp_path / "flat").mkdir()
    for name in ("train", "valid", "test"):
        (tmp_path / "flat" / f"{name}.txt").write_text(f"{name} one\n{name} two\n")
    flat = Tokens(path=str(tmp_path / "flat"), length=12)
    assert [flat.id_of(i) for i in range(len(flat))] == ["train.txt:000001", "train.txt:000002"]
    assert "`test.txt` is not trained on" in flat.outcome()


def test_copies_and_sessions_of_series(tmp_path: Path) -> None:
    x = np.repeat(RNG.normal(size=(8, 2, 16)), 3, axis=0).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, label=np.arange(24) // 3 % 2)
    train, test = sides(Series(path=str(tmp_path / "x.npz")))
    assert not train & test
    # Two activities alternate within each session.
    session = np.repeat([f"s{i}" for i in range(6)], 40)
    label = np.tile(np.repeat(["walk", "run"], 10), 12)
    path = table(tmp_path, a=RNG.normal(size=240), recording=session, label=label)
    source = Series(path=path, window=10, stride=10)
    both, (task,) = source.evaluation()
    sessions = [int(both.id_of(i).split("/")[1]) // 4 for i in range(24)]
    assert not {sessions[i] for i in task.test} & {sessions[i] for i in task.train}
    split = np.where(np.arange(240) < 160, "train", "test")
    path = table(tmp_path, a=RNG.normal(size=240), recording=session, label=label, split=split)
    source = Series(path=path, window=10, stride=10)
    assert len(source) == 16 and source.channels == ["a"]
    assert source.evaluation()[1][0].name == "label/test"


def test_copies_and_people_in_arrays(tmp_path: Path) -> None:
    x = np.repeat(RNG.integers(0, 256, (10, 6, 6, 3), dtype=np.uint8), 3, axis=0)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(30) // 3 % 2)
    train, test = sides(Arrays(path=str(tmp_path / "x.npz")))
    assert not train & test
    x, who = RNG.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8), np.arange(30) // 3
    for name, group in (("subject", None), ("site", "site")):
        arrays: dict[str, Any] = {"x": x, "y": who % 2, name: who}
        np.savez(tmp_path / "x.npz", **arrays)
        _, (task,) = Arrays(path=str(tmp_path / "x.npz"), group=group).evaluation()
        assert not {who[i] for i in task.test} & {who[i] for i in task.train}
    with pytest.raises(ValueError, match="has no array 'place'.*Correct `data.group`"):
        Arrays(path=str(tmp_path / "x.npz"), group="place")


def test_copies_of_point_clouds(tmp_path: Path) -> None:
    x = np.repeat(RNG.normal(size=(10, 8, 3)), 3, axis=0)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(30) // 3 % 2)
    _, (task, *_) = point_clouds(path=str(tmp_path / "x.npz"), points=8).evaluation()
    assert not set((task.train // 3).tolist()) & set((task.test // 3).tolist())
    for i in range(30):
        (tmp_path / "f" / "ab"[i // 3 % 2]).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "f" / "ab"[i // 3 % 2] / f"{i:02}.npy", x[i])
    both, (task, *_) = point_clouds(path=str(tmp_path / "f"), points=8).evaluation()
    shape = [int(both.id_of(i)[2:4]) // 3 for i in range(30)]
    assert not {shape[i] for i in task.train} & {shape[i] for i in task.test}


def test_patients_and_rows_of_one_image_with_tags(tmp_path: Path) -> None:
    files = pictures(tmp_path, 12)
    path = table(tmp_path, Path=files * 2, Edema=[0, 1] * 12)
    source = ImageTags(root=str(tmp_path), files=path, labels=["Edema"], size=8)
    train, test = sides(source)
    assert not train & test
    who = [i // 3 for i in range(12)]
    path = table(tmp_path, Path=files, Edema=[0, 1] * 6, **{"Patient ID": who})
    for group in (None, r"^\d"):
        source = ImageTags(root=str(tmp_path), files=path, labels=["Edema"], size=8, group=group)
        _, (task,) = source.evaluation()
        of = who if group is None else [int(file[0]) for file in files]
        assert not {of[i] for i in task.test} & {of[i] for i in task.train}
    source = ImageTags(root=str(tmp_path), files=path, test_files=path, labels=["Edema"], size=8)
    assert "12 files are in both lists" in source.outcome()


def test_copies_of_captioned_images(tmp_path: Path) -> None:
    files = pictures(tmp_path, 24, copies=3)
    path = table(tmp_path, path=files, caption=[f"picture {i}" for i in range(24)])
    source = CaptionedImages(root=str(tmp_path), files=path, size=8, length=12)
    _, (task,) = source.evaluation()
    assert not set((task.train % 24 // 3).tolist()) & set((task.test % 24 // 3).tolist())


def test_held_out_samples_without_a_label_are_of_the_held_out_part(tmp_path: Path) -> None:
    """They were not trained on: `embed` names their split so, and the start counts them."""
    label = ["xy"[i // 4 % 2] if i % 4 else "" for i in range(40)]
    columns = {"a": RNG.normal(size=40), "subject": [i // 4 for i in range(40)], "label": label}
    path = table(tmp_path, text=[f"text {i}" for i in range(40)], **columns)
    for number in range(12):
        split, kind = ("train", "val")[number < 6], "ab"[number % 2]
        folder = tmp_path / "p" / split / (kind if number % 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        pictures(folder, 1)
        (folder / "00.png").rename(folder / f"{number}.png")
    for source, noun in (
        (Table(path=path, group="subject"), "rows"),
        (Tokens(path=path, length=16, group="subject"), "token sequences"),
        (ImageFolder(root=str(tmp_path / "p"), size=8), "images"),
    ):
        samples, side = source.everything()
        (task, *_) = source.evaluation()[1]
        assert (side == "train").sum() == len(source) < len(samples)
        rest = len(samples) - len(source) - len(task.test)
        name = task.name.rpartition("/")[2]
        assert rest > 0 and (side == name).sum() == rest + len(task.test)
        assert f"{rest} more {noun} of {name} are neither trained on nor scored" in source.outcome()


def test_sources_on_both_sides_of_a_given_split_are_said(tmp_path: Path) -> None:
    """The split is the user's: the start of a run counts them, and the doctor finds a problem."""
    split = ["train" if i % 4 else "val" for i in range(40)]
    columns = {"a": RNG.normal(size=40), "text": [f"t {i}" for i in range(40)]}
    columns |= {"label": ["xy"[i // 2 % 2] for i in range(40)], "split": split}
    for people, torn in (([i // 5 for i in range(40)], 10), ([f"p{i}" for i in range(40)], 0)):
        path = table(tmp_path, patient=people, **columns)
        for source in (Table(path=path, group="patient"), Tokens(path=path, length=8)):
            assert "one side" not in str(source.columns)
            said = "10 " in source.outcome() and "source of training samples" in source.outcome()
            report = examine_source(source, path, "table")
            assert len(report.shared) == torn and said is bool(torn) is not report.ok
            assert any("source that is trained on" in line for line in report.lines()) is said


def test_labels_that_look_measured_are_said(tmp_path: Path) -> None:
    for step, measured in ((0.5, False), (0.1, True)):  # 13 and 61 different numbers
        values = np.round(np.resize(np.arange(-3.0, 3.05, step), 122), 1)
        source = Table(path=table(tmp_path, a=RNG.normal(size=122), label=values))
        assert ("if these are measured values" in source.outcome()) is measured


@pytest.mark.parametrize("missing", [np.nan, -1, ""])
def test_samples_of_nobody_known_are_on_their_own(missing: Any, tmp_path: Path) -> None:
    """NaN, a negative number and an empty name are no person, whose samples would be together."""
    values = [
        missing if i % 6 == 0 else i // 6 if missing != "" else f"p{i // 6}" for i in range(60)
    ]
    y, who = np.arange(60) // 6 % 2, np.array(values)
    pixels = RNG.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "i.npz", x=pixels, y=y, patient_id=who)
    np.savez(tmp_path / "t.npz", x=RNG.integers(0, 50, (60, 12)), y=y, patient_id=who)
    for source in (Arrays(path=str(tmp_path / "i.npz")), Tokens(path=str(tmp_path / "t.npz"))):
        both = source.evaluation()[0]
        assert both.groups is not None and len(np.unique(both.groups)) == 20


def test_the_doctor_finds_people_on_both_sides_of_folders(tmp_path: Path) -> None:
    for number in range(24):
        split, kind, person = ("val", "train")[number % 4 > 0], "ab"[number % 2], number // 3
        name = f"{split}/{kind}/patient{person}_{number}"
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "n" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "p" / f"{name}.png")
        np.save(tmp_path / "n" / f"{name}.npy", RNG.normal(size=(9, 3)))
    for folder, suffix in (("p", "png"), ("n", "npy")):
        report: Any = examine(tmp_path / folder, workers=0)
        assert len(report.shared) == 6 and f"val/a/patient0_0.{suffix}" in report.shared
        assert not report.ok and not report.leaks
        assert any("of a source that is trained on: 6" in line for line in report.lines())
