"""What a table says about its columns, by hand."""

from pathlib import Path

from mezzotint.data.table.table import Table

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
