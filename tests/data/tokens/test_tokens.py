import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.tokens.tokens import Tokens, windows
from mezzotint.modality.tokens import MASK, PADDING


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_lines_become_padded_bytes_and_read_back(tmp_path: Path) -> None:
    source = Tokens(path=write(tmp_path / "a.txt", "abc\n\nžluťoučký kůň\n"), length=8)
    assert source.input.shape == (8,) and source.input.vocabulary == 258 and len(source) == 2
    first = source.read(0)
    assert first["x"].tolist() == [99, 100, 101, PADDING, PADDING, PADDING, PADDING, PADDING]
    assert first["x"].dtype == source.read_batch(torch.arange(2)).dtype == torch.int64
    assert first["id"] == "a.txt:000001" and first["label"] is None and source.evaluation()[1] == []
    hidden = first["x"].clone()
    hidden[1] = MASK
    assert source.text(first["x"]) == "abc" and source.text(hidden) == "a_c"


def test_long_texts_are_cut_or_split() -> None:
    tokens = [np.arange(10), np.arange(3), np.arange(0), np.arange(12)]
    rows, owner = windows(tokens, 5)
    assert owner.tolist() == [0, 1, 3] and rows[1].tolist() == [2, 3, 4, PADDING, PADDING]
    rows, owner = windows(tokens, 5, split=True)
    assert owner.tolist() == [0, 0, 1, 3, 3] and rows[1].tolist() == [7, 8, 9, 10, 11]
    rows, owner = windows([np.arange(8)], 5, split=True)
    assert owner.tolist() == [0, 0] and rows[1].tolist() == [7, 8, 9, PADDING, PADDING]


@pytest.mark.parametrize("unit", ["line", "file"])
def test_folders_are_classes_and_splits(tmp_path: Path, unit: str) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for name in ("good", "bad"):
            write(
                tmp_path / split / name / "a.txt",
                "\n".join(f"{name} {split} {i}" for i in range(count)),
            )
    source = Tokens(path=str(tmp_path), length=64, unit=unit)  # type: ignore[arg-type]
    everything, (task,) = source.evaluation()
    each = {"line": (8, 4), "file": (2, 2)}[unit]
    assert (
        task.name == "label/test"
        and (len(source), len(task.test)) == each
        and source.classes == ["bad", "good"]
    )
    for index in (*task.train, *task.test):
        text = source.text(everything.read(int(index))["x"])
        assert text.startswith(task.classes[task.labels[index]])
        assert ("test" in text) == (index in task.test)


def test_a_table_holds_out_a_share_that_pretraining_does_not_see(tmp_path: Path) -> None:
    rows = "".join(f'"text {i}, quoted",{"ab"[i % 2]}\n' for i in range(40))
    source = Tokens(
        path=write(tmp_path / "t.csv", f"review,mood\n{rows}"),
        text="review",
        label="mood",
        holdout=0.25,
    )
    everything, (task,) = source.evaluation()
    assert (len(source), len(everything), len(task.test)) == (30, 40, 10) and source.text(
        source.read(0)["x"]
    ).endswith(", quoted")
    assert set(source.ids[:30]).isdisjoint(source.ids[30:])


def test_other_bad_input(tmp_path: Path) -> None:
    np.save(tmp_path / "ragged.npy", np.ones((2, 3)))
    np.save(tmp_path / "none.npy", np.full((2, 3), -1))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("ragged.npy", r"must be integers \[N, L\]"),
        ("none.npy", "is empty"),
        ("latin.txt", "UTF-8"),
        ("empty", "no text file"),
        ("missing.txt", "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokens(path=str(tmp_path / name))
    text = write(tmp_path / "a.txt", "dog")
    for tokenizer, message in (
        ("missing", "which is not a file"),
        (write(tmp_path / "v", ""), "has no tokens. It must be a vocabulary"),
        (write(tmp_path / "w", "a\na"), "got 2 lines and 1 different"),
        (write(tmp_path / "x", "cat"), "no tokens for 'dog'"),
        (write(tmp_path / "y.json", json.dumps({})), "is not a tokenizer|not installed"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokens(path=text, tokenizer=tokenizer)
