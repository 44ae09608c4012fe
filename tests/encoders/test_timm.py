"""The adapter of timm: widths, inputs, weights from files, refusals."""

import functools
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mezzotint.encoders.timm import timm as build
from mezzotint.types import Input

library = pytest.importorskip("timm")


def image(size: int = 64, channels: int = 3, width: int | None = None) -> Input:
    return Input((channels, size, width or size), (0.5,) * channels, (0.5,) * channels)


FAMILIES = [
    "resnet10t",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",  # these widen after pooling
    "ghostnet_050",
    "efficientvit_b0",
    "hgnetv2_b0",
    "mobilenetv4_conv_small",
    "vgg11",
    "levit_128s",
    "mixer_s32_224",
    "regnetx_002",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_dim_is_the_real_number_of_features(name: str) -> None:
    """On the meta device: shapes without arithmetic."""
    with torch.device("meta"):
        encoder = build(image(224), name=name).eval()
        assert encoder(torch.empty(2, 3, 224, 224)).shape == (2, encoder.dim)
    assert encoder.config == {"kind": "timm", "name": name}


def test_takes_channels_and_size_from_the_input() -> None:
    vit = build(image(32, channels=1, width=48), name="vit_tiny_patch16_224")
    assert vit(torch.randn(2, 1, 32, 48)).shape == (2, 192)
    convolutional = build(image(32, channels=13), name="resnet10t")
    assert convolutional(torch.randn(2, 13, 32, 32)).shape == (2, 512)


def test_dynamic_size_lets_a_vit_take_crops_of_several_sizes() -> None:
    encoder = build(image(64), name="vit_tiny_patch16_224", dynamic_size=True)
    assert (
        encoder(torch.randn(2, 3, 64, 64)).shape
        == encoder(torch.randn(2, 3, 32, 32)).shape
        == (2, 192)
    )
    with pytest.raises(ValueError, match="cannot build 'vgg11'"):
        build(image(), name="vgg11", dynamic_size=True)


def test_drop_path_reaches_the_network() -> None:
    encoder = build(image(32), name="vit_tiny_patch16_224", drop_path=0.3)
    rates: list[Any] = [m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file_and_never_from_a_network(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    source = library.create_model(
        "resnet10t", num_classes=1000
    )  # with a classifier, as published files have
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path)
    encoder = build(image(), name="resnet10t.c3_in1k", pretrained_path=str(path)).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = source.eval().forward_head(source.forward_features(x), pre_logits=True)
    torch.testing.assert_close(encoder(x), expected)


class Payload:
    """Code in a pickle, which must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.exit, ("the pickle ran",))


def test_bad_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = functools.partial(
        library.models.load_state_dict, weights_only=False
    )  # the default of timm 1.0.11
    monkeypatch.setattr(library.models, "load_state_dict", older)
    with pytest.raises(ValueError, match="must be a local .safetensors or .pth file"):
        build(image(), name="resnet10t", pretrained_path=str(tmp_path / "missing.pth"))
    torch.save({"a": Payload()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        build(image(), name="resnet10t", pretrained_path=str(tmp_path / "code.pth"))
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError,
        match="cannot build 'resnet10t'.*lacks 14 of .*, the first is 'conv1.0.weight'",
    ):
        build(image(), name="resnet10t", pretrained_path=str(tmp_path / "other.safetensors"))


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="must be a network of timm .*, got 'resnet1O'.*Did you mean .*resnet18"
    ):
        build(image(), name="resnet1O")
    with pytest.raises(ValueError, match="must be a network of timm .*, got 'hf-hub:owner/model'"):
        build(image(), name="hf-hub:owner/model")


def test_networks_that_do_not_pool_are_refused() -> None:
    with torch.device("meta"):
        with pytest.raises(
            ValueError, match=r"got \[1, 2048, 16, 16\]\. Choose a variant that pools"
        ):
            build(image(256), name="mobilenetv5_300m_enc")


def test_other_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match="takes images, got audio clips of shape"):
        build(Input((1, 64, 96), (0.5,), (0.5,), "audio"), name="resnet10t")


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'mezzotint\[timm\]'"):
        build(image(), name="resnet10t")


@pytest.mark.parametrize(
    ("name", "size", "patch"),
    [("vit_tiny_patch16_224", 40, 16), ("convnext_atto", 34, 4), ("mixer_s32_224", 80, 32)],
)
def test_pixels_beyond_the_last_patch_are_refused(name: str, size: int, patch: int) -> None:
    rest = size % patch
    message = f"patches of {patch} x {patch} pixels, .* {rest} rows and {rest} columns would never"
    with pytest.raises(ValueError, match=message):
        build(image(size), name=name)
    encoder = build(image(size - rest), name=name).eval()
    x = torch.randn(1, 3, size - rest, size - rest, requires_grad=True)
    encoder(x).square().sum().backward()
    assert x.grad is not None and bool((x.grad.abs().amax(dim=(0, 1)) > 0).all())


def test_a_network_that_cannot_take_the_size_is_refused_when_built() -> None:
    for name, size in (("vgg11", 16), ("levit_128s", 36)):
        message = f"'{name}' of timm cannot take images of {size} x {size} pixels: .* size"
        with pytest.raises(ValueError, match=message):
            build(image(size), name=name)
    encoder = build(image(48), name="resnet10t")
    assert encoder.training and all(m.training for m in encoder.modules())
    norm = next(m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert int(norm.num_batches_tracked or 0) == 0  # the image of zeros left no trace
