"""Tokens: ids stay whole numbers, padding is no patch, bytes are printed."""

from collections import Counter

import pytest
import torch

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.modality.tokens import (
    BYTES,
    PADDING,
    ngram_columns,
    ngram_fractions,
    token_fractions,
)
from mezzotint.types import Input

LETTERS = Input((64,), (), (), "tokens", BYTES)


def ink(x: torch.Tensor) -> torch.Tensor:
    return 255.0 - x.float().mean(dim=0)


def test_ids_are_neither_scaled_nor_normalized() -> None:
    x = torch.randint(0, 258, (2, 64))
    assert LETTERS.as_float(x) is x and LETTERS.normalize(x) is x


def test_patches_are_rows_of_a_standard_normal_table() -> None:
    patches = modality_of(LETTERS).patches(LETTERS, 400, PatchSize())
    x = torch.randint(0, 258, (2, 64))
    values, positions = patches.split(x)
    table = patches.get_parameter("table.weight")
    assert (
        torch.equal(patches.embed(values), table[x]) and 0.98 < float(table.detach().std()) < 1.02
    )
    assert positions[0, :, 0].tolist() == list(range(64))
    assert torch.equal(patches.vectors(values).argmax(dim=2), x)
    valid = patches.valid_mask(x)
    assert valid is not None and torch.equal(valid, x != PADDING)


def test_fractions_leave_padding_out() -> None:
    x = torch.tensor([[5, 5, 3, 0, 0], [0, 0, 0, 0, 0]])
    found = token_fractions(x, 6)
    assert found[0].tolist() == [0, 0, 0, torch.tensor(1 / 3), 0, torch.tensor(2 / 3)]
    assert found[1].tolist() == [0.0] * 6  # an empty text has no tokens


def test_bytes_are_printed_and_other_tokens_are_squares() -> None:
    text = torch.zeros(64, dtype=torch.int64)
    text[:40] = torch.tensor([ord("W") + 2] * 31 + [ord(" ") + 2] * 9)
    picture = modality_of(LETTERS).picture
    shown = ink(picture(text, LETTERS))
    assert shown.shape == (96, 192) and shown[:14].sum() > 1000 and shown[14:].sum() == 0
    assert not torch.equal(ink(picture(text.clamp(max=50), LETTERS)), shown)
    squares = picture(torch.tensor([5, 5, 1, 0]), Input((4,), (), (), "tokens", 30))
    assert squares.shape == (3, 96, 96) and torch.equal(squares[:, :48, :48], squares[:, :48, 48:])
    assert int(squares[:, 48:, :48].max()) == 0 and int(squares[:, 48:, 48:].min()) == 255


@pytest.mark.parametrize(("vocabulary", "columns"), [(258, 258), (1024, 1024), (30_000, 1024)])
def test_handmade_features_are_fractions_of_hashed_ngrams(vocabulary: int, columns: int) -> None:
    x = torch.randint(2, vocabulary, (3, 40), generator=torch.Generator().manual_seed(0))
    x[1, 25:] = PADDING
    x[2] = PADDING
    found = ngram_fractions(x, vocabulary)
    assert found.shape == (3, columns + 2048) and found.isfinite().all()
    for row, tokens in zip(found, x.tolist(), strict=True):
        text, expected = (
            [token for token in tokens if token != PADDING],
            torch.zeros(columns + 2048),
        )
        for size, first in ((1, 0), (2, columns), (3, columns + 1024)):
            counts: Counter[int] = Counter()
            for start in range(len(text) - size + 1):
                key = text[start]
                for token in text[start + 1 : start + size]:
                    key = (key * 2_654_435_761 + token) % 2**32
                if size > 1 or vocabulary > 1024:
                    key = (key * 2_654_435_761 % 2**32 // 2**16) % 1024
                counts[first + key] += 1
            for column, count in counts.items():
                expected[column] = (count / counts.total()) ** 0.5
        torch.testing.assert_close(row, expected)


def test_longer_ngrams_and_buckets_add_columns() -> None:
    x = torch.randint(2, 9, (2, 12), generator=torch.Generator().manual_seed(0))
    assert ngram_columns(9, 4, 16) == [9, 16, 16, 16] and ngram_columns(30, 1, 16) == [16]
    found = ngram_fractions(x, 9, 4, 16)
    assert found.shape == (2, 57)
    torch.testing.assert_close(found.square().sum(dim=1), torch.full((2,), 4.0))
    torch.testing.assert_close(found[:, :41], ngram_fractions(x, 9, 3, 16))


def test_texts_shorter_than_an_ngram_have_features_too() -> None:
    for length in (1, 2):
        found = ngram_fractions(torch.full((1, length), 7), 9)
        assert found.shape == (1, 9 + 2048) and found[0, 7] == 1.0
        assert float(found.square().sum()) == pytest.approx(length)  # one norm for each size
