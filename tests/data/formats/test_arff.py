"""ARFF by hand, and against scipy's reader."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.formats.arff import read_arff

TEXT = """% a comment
@relation 'two words'
@attribute 'sepal, length' numeric
@ATTRIBUTE b REAL
@attribute kind {a,'b c',"d,e"}

@data
1,2.5,a
?, 3, 'b c'
% another
4,-1e2,"d,e"
"""


def test_quotes_comments_and_missing_values(tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(TEXT)
    found = read_arff(tmp_path / "a.arff")
    assert found.names == ["sepal, length", "b", "kind"] and found.numeric == [True, True, False]
    assert found.rows == [["1", "2.5", "a"], ["?", "3", "b c"], ["4", "-1e2", "d,e"]]
    assert found.lines == [8, 9, 11]
    (tmp_path / "a.arff").write_text("@attribute 'it\\'s' string\n@data\n'a\\'b, c'\n")
    assert read_arff(tmp_path / "a.arff").rows == [["a'b, c"]]


def test_the_same_as_scipy(tmp_path: Path) -> None:
    arff = pytest.importorskip("scipy.io.arff")
    rng = np.random.default_rng(0)
    rows = [
        f"{a!r},{b!r},{'xyz'[i % 3]}" for i, (a, b) in enumerate(rng.normal(size=(9, 2)).tolist())
    ]
    head = "@relation r\n@attribute a numeric\n@attribute b real\n@attribute c {x,y,z}\n@data\n"
    (tmp_path / "a.arff").write_text(head + "\n".join(rows) + "\n")
    data, meta = arff.loadarff(tmp_path / "a.arff")
    found = read_arff(tmp_path / "a.arff")
    assert found.names == meta.names()
    assert [[float(r[0]), float(r[1]), r[2]] for r in found.rows] == [
        [float(r["a"]), float(r["b"]), r["c"].decode()] for r in data
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@attribute a numeric\n@data\n1,2\n", "line 3, must have 1 cells, .* got 2"),
        ("@attribute a numeric\n@data\n{0 1}\n", "line 3, is sparse"),
        ("@attribute a relational\n", "line 1, must be `@attribute NAME TYPE`"),
        ("@attribute a numeric\n", "got 1 attributes and 0 rows"),
        ("@attribute a real\n@attribute a real\n@data\n1,2\n", "unique names"),
    ],
)
def test_refusals_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.arff").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_arff(tmp_path / "a.arff")
