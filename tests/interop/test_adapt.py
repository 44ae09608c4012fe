"""Stems for other channels as timm makes them, and positions for other grids."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import nn

from mezzotint.encoders.resnet import resnet18
from mezzotint.interop.adapt import for_channels, for_grid
from mezzotint.interop.load import load_checkpoint
from mezzotint.types import Input


def test_kernels_are_adapted_as_timm_does_it() -> None:
    kernel = torch.randn(4, 3, 5, 5)
    for channels in (1, 2, 4, 5, 8):
        expected = adapt_input_conv(channels, kernel)
        assert torch.allclose(for_channels(kernel, channels), expected, atol=1e-6)
    assert for_channels(kernel, 3) is kernel


def test_a_gray_image_has_the_same_response_at_any_number_of_channels() -> None:
    kernel, gray = torch.randn(4, 3, 3, 3), torch.randn(1, 1, 9, 9)
    expected = nn.functional.conv2d(gray.expand(1, 3, 9, 9), kernel)
    for channels in (1, 6):
        out = nn.functional.conv2d(gray.expand(1, channels, 9, 9), for_channels(kernel, channels))
        assert torch.allclose(out, expected, atol=1e-5)


def test_positions_are_resampled_or_cut() -> None:
    rows = torch.arange(16.0).view(16, 1)  # of a 4 x 4 grid
    assert for_grid(rows, (4, 4), (4, 4), cut=False) is rows
    middle = for_grid(rows, (4, 4), (2, 4), cut=True)
    assert middle.flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    smooth = for_grid(rows, (4, 4), (8, 8), cut=False).view(8, 8)
    assert smooth.mean().item() == rows.mean().item() and bool(
        (smooth[:, 1:] > smooth[:, :-1]).all()
    )
    assert len(for_grid(rows, (16,), (5,), cut=False)) == 5
    assert len(for_grid(rows, (4, 2, 2), (2, 2, 4), cut=False)) == 16


def test_a_file_of_three_channels_starts_an_encoder_of_five(
    tmp_path: Path,
) -> None:
    theirs = timm.create_model("resnet18", num_classes=0)
    path = tmp_path / "resnet18.safetensors"
    save_file(theirs.state_dict(), path)
    encoder = resnet18(Input((5, 32, 32), (0.5,) * 5, (0.25,) * 5))
    loaded = load_checkpoint(encoder, path, adapt=True)
    assert "conv1.weight adapted from 3 to 5 channels" in str(loaded)
    assert torch.allclose(
        encoder.state_dict()["conv1.weight"],
        adapt_input_conv(5, theirs.state_dict()["conv1.weight"]),
    )
