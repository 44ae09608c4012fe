"""Vocabularies from files, compared with Hugging Face's tokenizers."""

from pathlib import Path

import pytest

from mezzotint.data.tokens.tokenizers import tokenizer_of
from mezzotint.data.tokens.tokens import Tokens

WORDS = ["[PAD]", "[UNK]", "un", "##happ", "##y", "happy", "##ness", "cat", "!"]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_vocabulary_takes_the_longest_pieces(tmp_path: Path) -> None:
    name = write(tmp_path / "vocab.txt", "\n".join(WORDS))
    encode = tokenizer_of(name).encode
    assert encode("Unhappy cat!") == [2, 3, 4, 7, 8]
    assert encode("happyness dog") == [5, 6, 1]
    source = Tokens(path=write(tmp_path / "a.txt", "unhappy cat"), tokenizer=name, length=6)
    assert source.input.vocabulary == 11 and source.text(source.read(0)["x"]) == "unhappy cat"


def test_a_tokenizer_file_of_hugging_face(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    whole = tokenizers.Tokenizer(model)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole.normalizer = tokenizers.normalizers.Lowercase()
    whole.enable_padding(length=20)
    whole.save(str(tmp_path / "tokenizer.json"))
    ours, theirs = (
        tokenizer_of(write(tmp_path / "v.txt", "\n".join(WORDS))),
        tokenizer_of(str(tmp_path / "tokenizer.json")),
    )
    for text in ("Unhappy cat!", "happyness, unhappyness dog", "cat cat"):
        assert list(ours.encode(text)) == list(theirs.encode(text))
    assert ours.size == theirs.size == len(WORDS)
