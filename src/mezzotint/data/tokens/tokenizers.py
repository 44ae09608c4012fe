"""Tokenizers from text to integers: bytes, or a vocabulary from a file.

Whatever padding and mask tokens a tokenizer has, two ids come first here: 0 is padding, and 1 a
masked token, so that views and encoders know both. Token `t` of a tokenizer has the id `t + 2`.

- `bytes`: the UTF-8 bytes of the text, 256 tokens, for any language.
- A text file with one token a line: words are split at white space and around punctuation, and each
  is split into the longest tokens of the file, from left to right; if the file has `##` tokens,
  those continue a word (WordPiece, Wu et al. 2016, arXiv 1609.08144, as in BERT). Without capital
  letters in the file, text is lower-cased.
- A `.json` file of Hugging Face's `tokenizers`, if that package is installed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.data.formats.delimited import lines_of, read_text

_WORDS = re.compile(r"\w+|[^\w\s]")
_LONGEST_WORD = 100


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer: text to token numbers and back.

    Attributes:
        encode: text to token numbers, without padding.
        size: size of the vocabulary.
        decode: token numbers back to text, as far as possible.
    """

    encode: Callable[[str], Sequence[int]]
    size: int
    decode: Callable[[Sequence[int]], str]


def tokenizer_of(name: str) -> TextTokenizer:
    """Return the tokenizer that a recipe names.

    Args:
        name: `bytes`, or the path of a vocabulary: text with one token a line, or a `.json` file.

    Raises:
        ValueError: when the file cannot be used, or needs a package that is not installed.
    """
    if name == "bytes":
        return TextTokenizer(
            lambda text: list(text.encode()), 256, lambda ids: bytes(ids).decode(errors="replace")
        )
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            "`tokenizer` must be bytes, or the path of a tokenizer.json or of a vocabulary with "
            f"one token a line, got {name!r}, which is not a file. Check the path."
        )
    return _hugging_face(path) if path.suffix.lower() == ".json" else _vocabulary(path)


def _hugging_face(path: Path) -> TextTokenizer:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            f"`{path}` is read with the package tokenizers, which is not installed. Run `pip "
            "install tokenizers`, or use bytes or a vocabulary with one token a line."
        ) from None
    try:
        loaded: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare exceptions
        detail = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`{path}` is not a tokenizer ({detail}). It must be a tokenizer.json of Hugging "
            "Face's tokenizers. Fetch it again."
        ) from None
    loaded.no_padding()
    loaded.no_truncation()
    return TextTokenizer(
        lambda text: list(loaded.encode(text, add_special_tokens=False).ids),
        int(loaded.get_vocab_size()),
        lambda ids: str(loaded.decode(list(ids))),
    )


def _vocabulary(path: Path) -> TextTokenizer:
    tokens = lines_of(read_text(path))
    position = {token: number for number, token in reversed(list(enumerate(tokens)))}
    if not any(tokens):
        raise ValueError(
            f"`{path}` has no tokens. It must be a vocabulary with one token a line. Check the "
            "file."
        )
    if len(position) != len(tokens):
        raise ValueError(
            f"`{path}` must list each token once, got {len(tokens)} lines and {len(position)} "
            "different tokens. Remove the duplicates."
        )
    lower = not any(
        token != token.lower() for token in tokens if not re.fullmatch(r"\[.*\]|<.*>", token)
    )
    start = "##" if any(token.startswith("##") for token in tokens) else ""
    unknown = next((position[name] for name in ("[UNK]", "<unk>") if name in position), None)

    def encode(text: str) -> list[int]:
        found: list[int] = []
        for word in _WORDS.findall(text.lower() if lower else text):
            found += _pieces(word, position, start, unknown, path)
        return found

    return TextTokenizer(
        encode,
        len(tokens),
        lambda ids: " ".join(tokens[i] for i in ids).replace(f" {start or '##'}", ""),
    )


def _pieces(
    word: str, position: dict[str, int], start: str, unknown: int | None, path: Path
) -> list[int]:
    """Split a word into its longest tokens from left to right, or return the unknown token."""
    found: list[int] = []
    at = 0
    while at < len(word) <= _LONGEST_WORD:
        prefix = start if at else ""
        end = next(
            (end for end in range(len(word), at, -1) if prefix + word[at:end] in position), at
        )
        if end == at:
            break
        found.append(position[prefix + word[at:end]])
        at = end
    if at == len(word):
        return found
    if unknown is None:
        raise ValueError(
            f"`{path}` has no tokens for {word!r} and no [UNK]. Add [UNK] to the vocabulary."
        )
    return [unknown]
