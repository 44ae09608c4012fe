"""Files of tables, and the refusals of bad ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.table.table import Table

ROWS = [
    "1,1.5,red,a",
    "2,,blue,b",
    "3,2.5,red,a",
    "4,4.0,,b",
    "5,3,green,a",
    "6,2,red,b",
    "7,1,blue,a",
    "8,6,red,",
]


CSV = "\n".join(["id,size,color,label", *ROWS])


def test_npz_and_parquet_are_the_same_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    one = Table(path=str(tmp_path / "a.npz"))
    assert one.features == ["x0", "x1", "x2", "x3"] and one.classes == ["0", "1", "2"]
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {f"x{i}": x[:, i] for i in range(4)} | {"label": y}
    parquet.write_table(arrow.table(columns), tmp_path / "b.parquet")
    assert torch.equal(Table(path=str(tmp_path / "b.parquet")).images, one.images)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,label\n1,2\n3\n", "line 3, must have 2 cells, as the first line, got 1"),
        (
            "a.csv",
            "a,a\n1,2\n",
            "must have unique column names in its first line, got 2 columns 'a'",
        ),
        ("a.csv", "a,label\n", "has no rows"),
        ("a.csv", "", "must have unique column names in its first line, got none"),
        ("a.csv", "label\nx\ny\n", "no rows, or no columns besides labels"),
        ("a.csv", "a,label\n,x\n,y\n", "No feature is left"),
        ("a.npz", "nothing", "cannot be read"),
        ("a.xlsx", "", "got the suffix '.xlsx'"),
    ],
)
def test_files_that_cannot_be_used_say_where_and_why(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        Table(path=str(tmp_path / name))


def test_unknown_columns_and_ragged_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    with pytest.raises(ValueError, match="has no column 'colors'"):
        Table(path=str(tmp_path / "a.csv"), categorical=["colors"])
    np.savez(tmp_path / "b.npz", x=np.ones((3, 2)), y=np.ones(4))
    with pytest.raises(ValueError, match="one number of rows, got .*. Correct the file"):
        Table(path=str(tmp_path / "b.npz"))
