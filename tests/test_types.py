"""The data classes that all packages exchange."""

import json
import math
import pickle
from typing import Any

import pytest
import torch

from mezzotint.types import Batch, Features, Input, Unreadable


def test_normalizing_is_by_channel_for_any_size() -> None:
    input = Input((3, 8, 8), (0.1, 0.5, 0.9), (0.25, 0.5, 1.0))
    stored = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = torch.stack(
        [(stored[:, c] / 255 - input.mean[c]) / input.std[c] for c in range(3)], dim=1
    )
    torch.testing.assert_close(input.normalize(input.as_float(stored)), expected)


def test_floats_are_stored_as_they_are() -> None:
    input = Input((2, 4), (1.0, 2.0), (2.0, 4.0), "series")
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.equal(input.as_float(x), x.float())


def test_statistics_must_have_a_value_for_each_channel() -> None:
    with pytest.raises(ValueError, match="`mean` and `std` must have 3 values .* got 1 and 3"):
        Input((3, 8, 8), (0.5,), (0.5,) * 3)


def test_an_input_with_a_range_is_described_and_read_back() -> None:
    input = Input(
        (2, 8, 8), (0.4, 0.5), (0.2, 0.1), dtype="uint16", bits=12, channels=("red", "near IR"),
        range=((0.0, 4095.0), (-5.0, 1000.0)),
    )  # fmt: skip
    stated = json.loads(json.dumps(input.described()))
    assert stated["range"] == [[0.0, 4095.0], [-5.0, 1000.0]] and "(high - low)" in stated["values"]
    assert Input.of(stated) == input
    eight_bits = Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3).described()
    assert eight_bits["values"] == "uint8 / 255, then (x - mean) / std" and not eight_bits["range"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"range": ((0.0, 1.0),)}, "`range` must have 2 entries"),
        ({"channels": ("red",)}, "`channels` must have 2 entries"),
        ({"range": ((0.0, 1.0), (3.0, 3.0))}, "a finite low and a larger high"),
        ({"range": ((0.0, 1.0), (0.0, math.inf))}, "a finite low and a larger high"),
        ({"range": ((0.0, 1.0), (math.nan, 1.0))}, "a finite low and a larger high"),
    ],
)
def test_a_range_and_names_have_an_entry_for_each_channel(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Input((2, 8, 8), (0.5,) * 2, (0.5,) * 2, **given)


def test_only_images_have_a_range() -> None:
    with pytest.raises(ValueError, match="Only images have .* ranges, got time series"):
        Input((2, 8), (0.5,) * 2, (0.5,) * 2, "series", range=((0.0, 1.0),) * 2)


def test_micro_batches_are_consecutive_rows_of_everything() -> None:
    batch = Batch(
        (torch.arange(6).view(6, 1), torch.arange(6, 12).view(6, 1)),
        torch.arange(6),
        labels=torch.arange(6) * 10,
    )
    assert batch.split(1) == [batch]
    parts = batch.split(3)
    assert [part.ids.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [part.x[1].flatten().tolist() for part in parts] == [[6, 7], [8, 9], [10, 11]]
    assert [None if p.labels is None else p.labels.tolist() for p in parts] == [
        [0, 10],
        [20, 30],
        [40, 50],
    ]
    assert all(part.labels is None for part in Batch(batch.x, batch.ids).split(2))


def test_an_unreadable_sample_names_itself_and_reaches_another_process() -> None:
    error = pickle.loads(pickle.dumps(Unreadable("a/b.jpg", "truncated")))
    assert (error.id, error.reason, str(error)) == ("a/b.jpg", "truncated", "a/b.jpg: truncated")


def test_features_are_indexed_by_row() -> None:
    features = Features(torch.arange(8).view(4, 2), torch.tensor([3, 2, 1, 0]))
    chosen = features[torch.tensor([2, 0])]
    assert chosen.x.tolist() == [[4, 5], [0, 1]] and chosen.validation is None
    assert chosen.y is not None and chosen.y.tolist() == [1, 3]


def test_an_unreadable_name_cannot_move_the_cursor_or_end_a_line() -> None:
    error = Unreadable("cat\n\x1b[2J.png", "broken: \x07")
    assert str(error) == r"cat\n\x1b[2J.png: broken: \x07" and error.id == "cat\n\x1b[2J.png"
