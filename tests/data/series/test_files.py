"""Files of series, and the refusals of bad ones."""

import warnings
from pathlib import Path

import pytest

from mezzotint.data.series.series import Series

TS = "#x\n@problemName a\n@timeStamps false\n@classLabel true up down\n@data\n"


def test_ts_files_and_their_test_set(tmp_path: Path) -> None:
    (tmp_path / "a_TRAIN.ts").write_text(TS + "1,2,3,4:5,6,7,8:up\n4,?,2,1:1,1,1,1:down\n")
    (tmp_path / "a_TEST.ts").write_text(TS + "0,0,0,1:1,1,1,1:down\n")
    source = Series(path=str(tmp_path / "a_TRAIN.ts"))
    everything, (task,) = source.evaluation()
    assert task.name == "label/test" and len(task.train) == 2 and len(task.test) == 1
    assert everything.read(1)["x"][0].tolist() == [4, 3, 2, 1] and everything.read(0)["x"][
        1
    ].tolist() == [5, 6, 7, 8]
    assert [everything.read(i)["label"] for i in range(3)] == [1, 0, 0] and task.classes == [
        "down",
        "up",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "subject,label,x\np,a,1\np,a\n",
            "line 3, must have 3 cells, as the first line, got 2",
        ),
        (
            "a.csv",
            "subject,label,x\np,a,1\np,a,left\n",
            "line 3: 'left' in the column 'x' is not a number",
        ),
        ("a.csv", "subject,label\np,a\n", "has no column of a channel, only subject, label"),
        ("a.csv", "", "must have unique column names in its first line, got none"),
        (
            "a.ts",
            TS + "1,2:3:up\n",
            r"line 6: all channels must have one length, got \[2, 1\] values",
        ),
        ("a.ts", TS + "1,x:3,4:up\n", "line 6: could not convert"),
        ("a.ts", TS, "has no series"),
        ("a.ts", TS.replace("false", "true"), "has time stamps"),
        ("a.npz", "no archive", "cannot be read"),
        (
            "a.wav",
            "",
            "a.wav` must be .arff, .arrow, .csv, .npz, .parquet, .ts, .tsv, got the suffix '.wav'",
        ),
    ],
)
def test_files_that_cannot_be_used_say_where_and_why(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        Series(path=str(tmp_path / name))


def test_a_missing_file_is_said_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match="cannot be read"):
        warnings.simplefilter("error")
        Series(path=str(tmp_path / "none.csv"))
