"""Tables of one's own, good and bad."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.source import Source
from mezzotint.data.table.encoding import fit
from mezzotint.data.table.table import Table, TableSample

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


def test_numbers_and_categories_become_features(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    source = Table(path=str(tmp_path / "a.csv"), ignore=["id"])
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    everything, (task,) = source.evaluation()
    assert (
        len(everything) == 8
        and len(task.train) + len(task.test) == 7
        and source.classes == ["a", "b"]
    )
    assert source.features[0] == "size" and source.features[1] == "color=red"
    assert source.input.shape == (len(source.features),) and source.input.modality == "table"
    x = source.images
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    assert (x.std(dim=0, correction=0) - 1).abs().max() < 1e-5


def test_encoding_by_hand() -> None:
    columns = {
        "n": np.array([1.0, np.nan, 3.0, 100.0]),
        "c": np.array(["x", "", "x", "new"]),
        "k": np.array([1.0, 2.0, 2.0, 2.0]),
    }
    training = np.array([True, True, True, False])
    encoding = fit(columns, training, categorical={"k"}, max_categories=1)
    assert encoding.features == ["n", "c=x", "k=2"]
    values = np.array([[1, 1, 0], [2, 0, 1], [3, 1, 1], [100, 0, 1]], np.float64)
    mean, std = values[:3].mean(axis=0), values[:3].std(axis=0)
    np.testing.assert_allclose(encoding(columns), (values - mean) / std, rtol=1e-6)


def test_rows_that_are_scored_leave_no_trace_in_the_scale(tmp_path: Path) -> None:
    rows = [f"{i % 7 + i / 100},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["v,label", *rows]))
    test = Table(path=str(tmp_path / "a.csv")).evaluation()[1][0].test
    source = Table(path=str(tmp_path / "a.csv"))
    scored = {int(str(source.ids[i]).rpartition("/")[2]) for i in test}
    changed = [f"{1000 + i},{row[-1]}" if i in scored else row for i, row in enumerate(rows)]
    (tmp_path / "a.csv").write_text("\n".join(["v,label", *changed]))
    assert torch.equal(Table(path=str(tmp_path / "a.csv")).images, source.images)


def test_tables_of_scikit_learn() -> None:
    source = TableSample(name="wine")
    _, (task,) = source.evaluation()
    assert (
        source.input.shape == (13,)
        and len(task.train) + len(task.test) == 178
        and len(task.classes) == 3
    )
    assert TableSample().input.shape == (30,) and TableSample().config["kind"] == "table_sample"
    with pytest.raises(ValueError, match="must be breast_cancer or wine, got 'iris'"):
        TableSample(name="iris")  # type: ignore[arg-type]


HEAD = ",age,gain,visit,color,answer,nothing,secret,label"


def test_every_column_is_described(tmp_path: Path) -> None:
    rows = [
        f"{i},{'NA' if i == 3 else i},0.1,2024-01-{1 + i:02d},{'rgb'[i % 3]},"
        f"{'None' if i % 2 else 'NA'},NA,{i}x,{2023001 + i % 2}"
        for i in range(20)
    ]
    (tmp_path / "a.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    table = Table(path=str(tmp_path / "a.csv"), ignore=["secret"], max_categories=2)
    said = {use.name: (use.use, use.detail) for use in table.columns}
    assert said[""] == ("left out", "numbers the rows")
    assert said["age"] == ("number", "0 to 19; 1 missing")
    assert said["gain"] == ("number", "0.1 to 0.1, constant in the training rows")
    assert said["visit"][0] == "time" and said["visit"][1].startswith("seconds since 1970, ")
    assert said["color"][0] == "categories"
    assert (
        said["color"][1].startswith("2 of 3: ")
        and "in 6 of 20 rows" in said["color"][1]
        or ("in 7 of 20 rows" in said["color"][1])
    )
    assert "'NA'" in said["answer"][1] and "'None'" in said["answer"][1]
    assert said["nothing"] == ("left out", "no value in the training rows")
    assert said["secret"] == ("left out", "named in data.ignore")
    assert said["label"] == ("label", "2 classes: '2023001', '2023002'")
    assert table.features[:3] == ["age", "gain", "visit"] and len(said) == 9


def test_numbers_too_long_for_64_bits_are_names(tmp_path: Path) -> None:
    """As features they would be equal; as groups, the rows of all people would be of one."""
    ids = [10**17 + i // 6 for i in range(60)]
    frame = {"a": np.arange(60.0), "id_of": np.array(ids), "label": np.arange(60) // 6 % 2}
    rows = "\n".join(",".join(map(str, row)) for row in zip(*frame.values(), strict=True))
    (tmp_path / "a.csv").write_text("a,id_of,label\n" + rows + "\n")
    np.savez(tmp_path / "a.npz", a=frame["a"], id_of=frame["id_of"], label=frame["label"])
    for name in ("a.csv", "a.npz"):
        source = Table(path=str(tmp_path / name))
        assert source.encoding.columns[1].categories is not None
        assert len(source.encoding.columns[1].categories) == 10
        source = Table(path=str(tmp_path / name), group="id_of")
        both, (task,) = source.evaluation()
        assert source.features == ["a"] and both.groups is not None
        assert len(np.unique(both.groups)) == 10
        assert len(task.test) == 24
    (tmp_path / "c.csv").write_text("a,b,label\n007,01,x\n7,20,y\n,3,x\n012,4,y\n")
    codes, numbers = Table(path=str(tmp_path / "c.csv")).encoding.columns
    assert codes.categories is not None and {*codes.categories} <= {"007", "7", "012"}
    assert numbers.categories is None  # no two of them are one number
    (tmp_path / "b.csv").write_text("a,label\n1e17,x\n1.0e17,y\n5,x\n")
    assert Table(path=str(tmp_path / "b.csv")).encoding.columns[0].categories is None
