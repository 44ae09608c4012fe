"""The decoder of masked prediction against the same sequence by hand; windows and their inverse."""

from typing import Any

import pytest
import torch

from mezzotint.encoders.decoder import Decoder, unwindows, windows
from mezzotint.encoders.vit import ViT
from mezzotint.types import Input

CPU = torch.device("cpu")


def vit(size: tuple[int, int] = (16, 24)) -> ViT:
    torch.manual_seed(0)
    return ViT(Input((1, *size), (0.0,), (1.0,)), width=16, depth=1, heads=2, patch=4)


@pytest.mark.parametrize("window", [0, 2])
def test_output_equals_the_sequence_built_by_hand(window: int) -> None:
    encoder = vit()
    decoder = Decoder(width=12, depth=2, heads=2, window=window).build(encoder, 5)
    grid, count = encoder.patches.grid, encoder.patches.count
    order = torch.stack([torch.randperm(count) for _ in range(3)])
    keep, hidden = order[:, :6], order[:, 6:]
    seen, (_, where) = torch.randn(3, 6, 16), encoder.patches.split(torch.zeros(1, 1, 16, 24))
    full = decoder.hidden.detach().repeat(3, count, 1)
    for row in range(3):
        for slot, patch in enumerate(keep[row].tolist()):
            full[row, patch] = decoder.embed(seen[row, slot])
    full = full + decoder.places(where)
    for number, block in enumerate(decoder.blocks):
        if window:
            full = unwindows(block(windows(full, grid, 2, number % 2)), grid, 2, number % 2)
        else:
            full = block(full)
    expected = decoder.head(decoder.norm(full))
    found = decoder(seen, keep, hidden, where, grid)
    assert found.shape == (3, count - 6, 5)
    for row in range(3):
        torch.testing.assert_close(found[row], expected[row, hidden[row]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("grid", "side"), [((4, 6), 2), ((6,), 3), ((2, 4, 4), 4)])
@pytest.mark.parametrize("moved", [0, 1])
def test_windows_contain_neighbors_and_have_an_inverse(
    grid: tuple[int, ...], side: int, moved: int
) -> None:
    count = torch.Size(grid).numel()
    x = torch.arange(count, dtype=torch.float32).view(1, count, 1).repeat(2, 1, 3)
    cut = windows(x, grid, side, moved)
    sides = [min(n, side) for n in grid]
    assert cut.shape == (2 * count // torch.Size(sides).numel(), torch.Size(sides).numel(), 3)
    assert torch.equal(unwindows(cut, grid, side, moved), x)
    first = cut[0, :, 0].long().tolist()
    shifts = [moved if s == side else 0 for s in sides]
    expected = []
    for position in (
        torch.cartesian_prod(*(torch.arange(s) for s in sides)).view(-1, len(grid)).tolist()
    ):
        number = 0
        for at, shift, n in zip(position, shifts, grid, strict=True):
            number = number * n + (at + shift) % n
        expected.append(number)
    assert first == expected


def test_windows_shift_along_the_axes_that_were_named() -> None:
    x = torch.arange(24.0).view(1, 24, 1)
    time = windows(x, (4, 6), 2, (0, 1))
    assert time[0, :, 0].tolist() == [1.0, 2.0, 7.0, 8.0]  # rows 0 and 1, columns 1 and 2
    assert torch.equal(unwindows(time, (4, 6), 2, (0, 1)), x)
    built = Decoder(width=12, depth=2, heads=2, window=2, shift=[0, 1]).build(vit(), 5)
    default = Decoder(width=12, depth=2, heads=2, window=2).build(vit(), 5)
    assert built.shift == (0, 1) and default.shift == (1, 1)
    built.load_state_dict(default.state_dict())
    keep = torch.arange(6).expand(2, -1)
    hidden = torch.arange(6, 24).expand(2, -1)
    where = vit().patches.split(torch.zeros(1, 1, 16, 24))[1]
    visible = torch.randn(2, 6, 16)
    found = [d(visible, keep, hidden, where, (4, 6)) for d in (built, default)]
    assert not torch.allclose(*found)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"window": 4, "shift": [0, 4]}, r"`decoder.shift` must be 0 or more and below `window`"),
        ({"shift": [0, 2]}, r"got \[0, 2\] for windows of 0. Try \[0, 1\], or leave it out"),
        ({"window": 2, "shift": [1]}, r"must have a number for each of 2 axes, got \[1\]"),
    ],
)
def test_shifts_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder(width=12, heads=2, **keys).build(vit(), 5)


def test_a_grid_that_windows_do_not_fill_is_refused() -> None:
    """Regression: the published decoder is made for 64 × 8 patches and fails on any other grid."""
    with pytest.raises(
        ValueError, match=r"`decoder.window` must divide .* grid of 5 × 6 patches, got 4\. .* use 0"
    ):
        Decoder(width=12, depth=1, heads=2, window=4).build(vit((20, 24)), 5)
    with pytest.raises(ValueError, match=r"`decoder.window` must be 0 .* or at least 2, got 1"):
        Decoder(window=1)
