"""Files of texts and tokens, and the refusals of bad ones."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.doctor import SourceReport, examine
from mezzotint.data.tokens.tokens import Tokens


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_arrays_keep_their_numbers_and_negative_ones_are_no_tokens(tmp_path: Path) -> None:
    x = np.array([[5, 0, 3, -1], [1, -1, -1, -1], [7, 7, 7, 7]])
    np.savez(tmp_path / "a.npz", x=x, label=np.array([0, 1, -1]))
    source = Tokens(path=str(tmp_path / "a.npz"), length=4)
    assert source.input.vocabulary == 10 and source.classes == ["0", "1"]
    assert source._all.tolist() == [[7, 2, 5, 0], [3, 0, 0, 0], [9, 9, 9, 9]]
    np.save(tmp_path / "stream.npy", np.arange(20))
    stream = Tokens(path=str(tmp_path / "stream.npy"), length=8, overflow="split", vocabulary=50)
    assert len(stream) == 3 and stream.input.vocabulary == 52
    with pytest.raises(ValueError, match="must be above the largest token 19, got 10"):
        Tokens(path=str(tmp_path / "stream.npy"), vocabulary=10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "\n \n", "is empty"),
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "is empty"),
        ("a.csv", "text,label\nx,y,z\n", "line 2, must have 1 cells|line 2, must have 2 cells"),
        ("a.csv", "words\nx\n", "has no column 'text', only words"),
        ("a.docx", "x", "has the suffix '.docx'"),
    ],
)
def test_bad_files_are_refused_with_what_to_do(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(path=write(tmp_path / name, content))


def test_texts_of_one_person_are_held_out_together(tmp_path: Path) -> None:
    """Named by a column, by an array, or by a pattern over the paths of files."""
    rows = [f"{name} {n} {n * 7},{'ab'[n % 2]},p{n // 4}" for n, name in enumerate("qwertyuiopas")]
    table = write(tmp_path / "t.csv", "text,label,author\n" + "\n".join(rows))
    tokens = np.arange(48).reshape(12, 4)
    np.savez(tmp_path / "n.npz", x=tokens, y=np.arange(12) % 2, author=np.arange(12) // 4)
    for number, row in enumerate(rows):
        file = tmp_path / "texts" / "ab"[number % 2] / f"p{number // 4}-{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row)
    for path, group in (
        (table, "author"), (str(tmp_path / "n.npz"), "author"), (str(tmp_path / "texts"), "p[0-9]"),
    ):  # fmt: skip
        source = Tokens(path=path, length=16, group=group)
        both, (task,) = source.evaluation()
        assert both.groups is not None and len(np.unique(both.groups)) == 3
        sides = [set(both.groups[part].tolist()) for part in (task.train, task.test)]
        assert len(sides[1]) == 1 and not sides[0] & sides[1]
    for path in (table, str(tmp_path / "n.npz")):
        with pytest.raises(ValueError, match="has no .* 'writer', only .*author.*`data.group`"):
            Tokens(path=path, length=16, group="writer")
    with pytest.raises(ValueError, match="`group` must be a regular expression"):
        Tokens(path=str(tmp_path / "texts"), length=16, group="(")


def test_a_file_that_is_no_text_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a" / "1.txt", "one\ntwo\n")
    write(tmp_path / "t" / "b" / "2.txt", "three\n")
    (tmp_path / "t" / "a" / "3.txt").write_bytes(b"\xff\xfe\x00")
    source = Tokens(path=str(tmp_path / "t"), length=8)
    assert source.unreadable and source.unreadable[0][0] == "a/3.txt"
    assert "left out as unreadable: 1 files, such as `a/3.txt` (not UTF-8 text" in source.outcome()
    report = examine(tmp_path / "t")
    assert (
        isinstance(report, SourceReport)
        and not report.ok
        and report.unreadable == [("a/3.txt", source.unreadable[0][1])]
    )
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="u/x.txt` cannot be read"):
        Tokens(path=str(tmp_path / "u"), length=8)


def test_empty_texts_and_rows_of_other_splits_are_counted(tmp_path: Path) -> None:
    rows = ["one,a,train", ",a,train", "two,b,train", " ,b,val", "three,a,val", "four,b,test"]
    source = Tokens(
        path=write(tmp_path / "a.csv", "text,label,split\n" + "\n".join(rows)), length=8
    )
    assert len(source) == 2 and len(source.evaluation()[0]) == 3
    outcome = source.outcome()
    assert "1 rows of other splits are neither trained on nor scored" in outcome
    assert "2 texts are empty and left out, such as `a/000001`" in outcome
    write(tmp_path / "f" / "1.txt", "")
    write(tmp_path / "f" / "2.txt", "x\n\n")
    assert "1 texts are empty" in Tokens(path=str(tmp_path / "f"), unit="file").outcome()
    assert Tokens(path=str(tmp_path / "f")).outcome() == "1 token sequences"
    np.save(tmp_path / "n.npy", np.array([[1, 2], [-1, -1]]))
    assert "1 texts are empty" in Tokens(path=str(tmp_path / "n.npy"), length=2).outcome()


def test_a_text_keeps_its_spaces_and_line_ends_in_every_table(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = ["\nfirst", "  indented", "last \n", "plain"]
    cells = [f'"{text}", {label} ' for text, label in zip(texts, "abab", strict=True)]
    source = Tokens(path=write(tmp_path / "a.csv", "text,label\n" + "\n".join(cells)), length=12)
    parquet.write_table(pa.table({"text": texts, "label": [*"abab"]}), tmp_path / "b.parquet")
    other = Tokens(path=str(tmp_path / "b.parquet"), length=12)
    assert source.classes == other.classes == ["a", "b"]
    for tokens in (source, other):
        both = tokens.evaluation()[0]
        assert sorted(tokens.text(both.read(i)["x"]) for i in range(4)) == sorted(texts)
