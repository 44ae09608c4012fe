"""Series of one's own, good and bad."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.series.series import Series, bridged
from mezzotint.data.source import Source

NAN = float("nan")


def write_csv(path: Path, rows: list[str], header: str = "subject,label,ax,ay") -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def long_table(people: int = 4, steps: int = 40) -> list[str]:
    return [
        f"p{person},{label},{step + 100 * person},{step if label == 'run' else -step}"
        for person in range(people)
        for label in ("run", "walk")
        for step in range(steps)
    ]


def test_gaps_are_bridged_by_lines_up_to_their_limit() -> None:
    rows = [[0.0, NAN, NAN, 3.0, NAN, NAN, NAN, 7.0], [NAN, 1.0, 1.0, 1.0, 1.0, 1.0, np.inf, 5.0]]
    values = np.array(rows, np.float32)
    found = bridged(values, 2)
    np.testing.assert_array_equal(found[0], [0, 1, 2, 3, NAN, NAN, NAN, 7])
    np.testing.assert_array_equal(found[1], [1, 1, 1, 1, 1, 1, 3, 5])
    assert np.isnan(values[0, 1])  # the input stays
    np.testing.assert_array_equal(bridged(values, 3)[0], np.arange(8))
    assert np.isnan(bridged(np.full((1, 4), np.nan, np.float32), 9)).all()


def test_csv_with_subjects(tmp_path: Path) -> None:
    source = Series(
        path=write_csv(tmp_path / "a.csv", long_table()), window=16, stride=8, holdout=0.5
    )
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    everything, (task,) = source.evaluation()
    assert (
        len(everything) == 4 * 2 * 4
        and source.input.shape == (2, 16)
        and task.name == "label/held-out-subjects"
    )
    assert len(source) == len(task.train) == len(task.test) == 16

    def people(rows: np.ndarray) -> set[int]:
        return {int(everything.read(int(i))["x"][0, 0]) // 100 for i in rows}

    assert len(people(task.train)) == 2 and not people(task.train) & people(task.test)
    assert task.classes == ["run", "walk"]
    row = everything.read(int(task.train[0]))
    assert (row["x"][1].diff() == (1 if row["label"] == 0 else -1)).all()


def test_csv_without_subjects_keeps_recordings_whole(tmp_path: Path) -> None:
    rows = [f"{r},{'a' if r % 2 else 'b'},{r},{s}" for r in range(12) for s in range(20)]
    path = write_csv(tmp_path / "a.csv", rows, "recording,label,x,y")
    everything, (task,) = Series(path=path, window=10, stride=5).evaluation()
    recording = [
        {int(everything.read(int(i))["x"][0, 0]) for i in rows} for rows in (task.train, task.test)
    ]
    assert (
        task.name == "label/holdout" and not recording[0] & recording[1] and len(recording[1]) == 4
    )


def test_gaps_in_a_csv(tmp_path: Path) -> None:
    rows = long_table(2, 40)
    rows[3] = "p0,run,,3"
    for step in range(20, 30):
        rows[step] = f"p0,run,{step},"
    source = Series(path=write_csv(tmp_path / "a.csv", rows), window=10, stride=10)
    assert "1 windows dropped, for gaps of more than 5 steps" in source.outcome()
    assert source.dropped == 1 and len(source.evaluation()[0]) == 15
    first = next(
        w["x"] for w in map(source.evaluation()[0].read, range(15)) if w["id"] == "a/000000/0000"
    )
    assert first[0].tolist() == list(range(10))  # the missing 3 is on the line from 2 to 4


def test_npz_layouts_and_short_recordings(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(10, 3, 30)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, label=np.arange(10) % 2)
    np.savez(tmp_path / "b.npz", x=x.transpose(0, 2, 1), label=np.arange(10) % 2)
    one, other = (
        Series(path=str(tmp_path / "a.npz")),
        Series(path=str(tmp_path / "b.npz"), layout="NTC"),
    )
    assert one.input.shape == (3, 30) and one.fingerprint() == other.fingerprint()
    stretched = Series(path=str(tmp_path / "a.npz"), window=59)
    np.testing.assert_allclose(stretched.images[0, :, ::2], one.images[0], atol=1e-5)
    with pytest.raises(ValueError, match="no window of 90 steps in its 10 series"):
        Series(path=str(tmp_path / "a.npz"), window=90)


@pytest.mark.parametrize("column", ["patient_id", "Person", "speaker"])
def test_a_column_of_people_is_the_subject_and_no_channel(column: str, tmp_path: Path) -> None:
    rows = [f"x,label,{column}"]
    rows += [f"{n * p % 7},{'ab'[p % 2]},{100 + p}" for p in range(6) for n in range(8)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    source = Series(path=str(tmp_path / "a.csv"), window=4)
    (task,) = source.evaluation()[1]
    assert source.channels == ["x"] and task.name == "label/held-out-subjects"
    own = Series(path=str(tmp_path / "a.csv"), window=4, channels=["x", column])
    assert own.channels == ["x", column]
    values = np.arange(6 * 4, dtype=float).reshape(6, 4)
    np.savez(tmp_path / "a.npz", x=values, y=np.arange(6) % 2, **{column: np.arange(6) // 2})  # type: ignore[arg-type]
    (task,) = Series(path=str(tmp_path / "a.npz")).evaluation()[1]
    assert task.name == "label/held-out-subjects"
    assert len(Series(path=str(tmp_path / "a.npz"), subject=None).evaluation()[1]) == 1


def test_series_that_are_padded_with_nan_are_shorter_series(tmp_path: Path) -> None:
    """As those of a `.ts` file; a few missing steps at the end are a gap that is filled."""
    x = np.random.default_rng(0).normal(size=(4, 2, 40)).astype(np.float32)
    x[1, :, 24:], x[2, :, 37:], x[3, :, 8:] = np.nan, np.nan, np.nan
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1, 0, 1])
    source = Series(path=str(tmp_path / "a.npz"))
    lines = [":".join(",".join(map(repr, c[:24].tolist())) for c in x[i]) for i in (1, 1)]
    lines.append(":".join(",".join(map(repr, c.tolist())) for c in x[0]))
    header = "@timeStamps false\n@classLabel false\n@data\n"
    (tmp_path / "b.ts").write_text(header + "\n".join(lines))
    of_ts = Series(path=str(tmp_path / "b.ts"))
    everything = source.evaluation()[0]
    found = {everything.id_of(i): everything.read(i)["x"] for i in range(len(everything))}
    assert "1 series have no window, such as `a/000003`" in source.outcome()
    assert source.dropped == 1 and sorted(found) == [f"a/{i:06d}/0000" for i in range(3)]
    assert torch.equal(found["a/000001/0000"], of_ts.evaluation()[0].read(0)["x"])
    assert torch.equal(
        found["a/000002/0000"][:, 36:], found["a/000002/0000"][:, 36:37].expand(2, 4)
    )


@pytest.mark.parametrize("name", ["time", "t", "Timestamp", "time (ms)", "elapsed_time_s"])
def test_a_clock_of_numbers_is_no_channel_unless_it_is_named(name: str, tmp_path: Path) -> None:
    rows = [f"{s * (0.02 + r % 2)},{s * r % 7},{r}" for r in range(4) for s in range(9)]
    path = write_csv(tmp_path / "a.csv", rows, f"{name},x,recording")
    assert Series(path=path, window=4).channels == ["x"]
    assert name in Series(path=path, window=4).outcome()
    assert Series(path=path, window=4, channels=["x", name]).channels == ["x", name]
    rows[5] = f"0,{rows[5].partition(',')[2]}"  # it does not rise: a measurement
    path = write_csv(tmp_path / "b.csv", rows, f"{name},x,recording")
    assert Series(path=path, window=4).channels == [name, "x"]


def test_series_of_one_recording_of_an_array_are_held_out_together(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 1, 8)).astype(np.float32)
    recording, y = np.arange(40) // 4, np.arange(40) // 4 % 2
    for name in ("recording", "groups", "source_id"):
        arrays: dict[str, Any] = {"x": x, "y": y, name: recording}
        np.savez(tmp_path / "a.npz", **arrays)
        source = Series(path=str(tmp_path / "a.npz"))
        everything, (task,) = source.evaluation()
        of = [recording[int(everything.id_of(i).split("/")[1])] for i in range(40)]
        train, test = ({of[i] for i in part} for part in (task.train, task.test))
        assert test and not train & test
        assert any(use.name == name and use.use == "recording" for use in source.columns)
    np.savez(tmp_path / "b.npz", x=x, y=y, subjects=recording)
    (task,) = Series(path=str(tmp_path / "b.npz")).evaluation()[1]
    assert task.name == "label/held-out-subjects"
    np.savez(tmp_path / "c.npz", x=x, y=y, source="a file of mine")  # one text for all
    assert len(Series(path=str(tmp_path / "c.npz")).evaluation()[0]) == 40
