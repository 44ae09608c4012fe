"""Stems for other channels as timm makes them, and positions for other grids."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import nn

from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.timm import timm as timm_encoder
from mezzotint.interop.adapt import for_channels, for_grid
from mezzotint.interop.load import load_checkpoint
from mezzotint.train.init import _load_encoder
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


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_a_transformer_of_timm_starts_at_another_size_and_channels(
    name: str, tmp_path: Path
) -> None:
    """Positions are resampled as timm does it, and those of class tokens stay."""
    from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

    whole: Any = timm.create_model(name, pretrained=False, img_size=64)
    save_file(whole.state_dict(), tmp_path / "v.safetensors")
    own = timm_encoder(Input((1, 96, 96), (0.5,), (0.5,)), name=name)
    said = load_checkpoint(own, tmp_path / "v.safetensors", adapt=True).adapted
    assert said == (
        "patch_embed.proj.weight adapted from 3 to 1 channels",
        "positions resized from (4, 4) to (6, 6)",
    )
    found = own.state_dict()
    prefix = whole.num_prefix_tokens
    expected = resample_abs_pos_embed(whole.pos_embed, [6, 6], num_prefix_tokens=prefix)
    torch.testing.assert_close(found["model.pos_embed"], expected.detach(), atol=1e-4, rtol=1e-3)
    kernel = whole.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found["model.patch_embed.proj.weight"], kernel.detach())
    save_encoder(own, tmp_path / "encoder")  # a directory is adapted in the same way
    keys = {k: v for k, v in load_encoder(tmp_path / "encoder").config.items() if k != "kind"}
    back = timm_encoder(Input((1, 64, 64), (0.5,), (0.5,)), **keys)
    assert "positions resized from (6, 6) to (4, 4)" in _load_encoder(
        back, tmp_path / "encoder", {}
    )


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
