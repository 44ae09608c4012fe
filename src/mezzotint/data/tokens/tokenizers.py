"""From text to tokens, whole numbers: bytes as they are, or a vocabulary from a file.

Whatever the tokenizer calls its own padding and mask, here two ids come before all others: 0 is
padding, and 1 stands for a masked token, so that views and encoders need not be told. Token `t` of
a tokenizer has the id `t + 2`.

- `bytes`: the UTF-8 bytes of the text, 256 tokens. Nothing is unknown to it, in any language.
- A text file with one token a line: words are split at white space and around punctuation, and each
  is taken apart into the longest tokens that the file has, from left to right; where the file has
  any `##` tokens, those continue a word (WordPiece, Wu et al. 2016, arXiv 1609.08144, as BERT uses
  it). In a file without capital letters text is lowered.
- A `.json` file of Hugging Face's `tokenizers`, where that package is installed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORDS = re.compile(r"\w+|[^\w\s]")
_LONGEST_WORD = 100


@dataclass(frozen=True)
class TextTokenizer:
    """What turns text into ids.

    Attributes:
        encode: text to the tokenizer's own token numbers, without padding.
        size: how many tokens it has.
        decode: own token numbers back to text, as well as that goes.
    """

    encode: Callable[[str], Sequence[int]]
    size: int
    decode: Callable[[Sequence[int]], str]


def tokenizer_of(name: str) -> TextTokenizer:
    """The tokenizer that a recipe names.

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
            f"got tokenizer={name!r}, which is no file; allowed are bytes, a vocabulary with one token a line, and a "
            "tokenizer.json: check the path"
        )
    return _hugging_face(path) if path.suffix == ".json" else _vocabulary(path)


def _hugging_face(path: Path) -> TextTokenizer:
    try:
        import tokenizers
    except ImportError:
        raise ValueError(
            f"{path} needs the package tokenizers, which is not installed; allowed without it are bytes and a "
            "vocabulary with one token a line: pip install tokenizers"
        ) from None
    try:
        loaded: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare exceptions
        detail = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path} is no tokenizer ({detail}); allowed is a tokenizer.json of Hugging Face's tokenizers: fetch it"
        ) from None
    loaded.no_padding()
    loaded.no_truncation()
    return TextTokenizer(
        lambda text: list(loaded.encode(text, add_special_tokens=False).ids),
        int(loaded.get_vocab_size()),
        lambda ids: str(loaded.decode(list(ids))),
    )


def _vocabulary(path: Path) -> TextTokenizer:
    try:
        tokens = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as UTF-8 text ({error}); check the path and the encoding"
        ) from None
    place = {token: number for number, token in reversed(list(enumerate(tokens)))}
    if not any(tokens):
        raise ValueError(
            f"{path} holds no token; allowed is a vocabulary with one token a line: check the file"
        )
    if len(place) != len(tokens):
        raise ValueError(
            f"{path} holds {len(tokens)} lines and {len(place)} different tokens; allowed is each once: remove the "
            "others"
        )
    lower = not any(
        token != token.lower() for token in tokens if not re.fullmatch(r"\[.*\]|<.*>", token)
    )
    start = "##" if any(token.startswith("##") for token in tokens) else ""
    unknown = next((place[name] for name in ("[UNK]", "<unk>") if name in place), None)

    def encode(text: str) -> list[int]:
        found: list[int] = []
        for word in _WORDS.findall(text.lower() if lower else text):
            found += _pieces(word, place, start, unknown, path)
        return found

    return TextTokenizer(
        encode,
        len(tokens),
        lambda ids: " ".join(tokens[i] for i in ids).replace(f" {start or '##'}", ""),
    )


def _pieces(
    word: str, place: dict[str, int], start: str, unknown: int | None, path: Path
) -> list[int]:
    """The longest tokens of a word from left to right; one unknown where it cannot be taken apart."""
    found: list[int] = []
    at = 0
    while at < len(word) <= _LONGEST_WORD:
        prefix = start if at else ""
        end = next((end for end in range(len(word), at, -1) if prefix + word[at:end] in place), at)
        if end == at:
            break
        found.append(place[prefix + word[at:end]])
        at = end
    if at == len(word):
        return found
    if unknown is None:
        raise ValueError(
            f"{path} has no tokens for {word!r} and no [UNK]; allowed is a vocabulary that has either: add [UNK] to it"
        )
    return [unknown]
