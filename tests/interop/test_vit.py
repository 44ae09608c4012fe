"""ViTs of other projects against timm's network, which has their names and their arithmetic."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typer.testing import CliRunner

from mezzotint import load_encoder
from mezzotint.cli import app
from mezzotint.encoders.vit import ViT
from mezzotint.interop.layouts import recognize_encoder
from mezzotint.interop.load import load_checkpoint, read_tensors
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input

IMAGE = Input((3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)
SMALL: dict[str, Any] = {"width": 64, "depth": 2, "heads": 1, "patch": 8}
AUDIO = Input((1, 16, 64), (0.0,), (1.0,), "audio")


def network(size: tuple[int, int] = (32, 32), channels: int = 3, **keys: Any) -> nn.Module:
    """Make timm's ViT with random weights everywhere: its positions and biases start at 0."""
    torch.manual_seed(1)
    made = timm.models.VisionTransformer(
        img_size=size, patch_size=8, in_chans=channels, embed_dim=64, depth=2, num_heads=1,
        num_classes=0, **{"global_pool": "token", "fc_norm": False, **keys},
    )  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("pool, theirs", [("cls", "token"), ("patches", "avg")])
def test_features_are_those_of_the_file(pool: str, theirs: str, tmp_path: Path) -> None:
    source = network(global_pool=theirs)
    content = {"model": source.state_dict(), "args": argparse.Namespace(lr=1.0)}
    keys: dict[str, Any] = dict(SMALL, pool=pool, positions="learned")
    encoder = ViT(IMAGE, **keys).eval()
    loaded = load_checkpoint(encoder, save(tmp_path / "c.pth", content))
    assert loaded.loaded == loaded.total == len(encoder.state_dict())
    torch.testing.assert_close(encoder(images()), source(images()), atol=1e-5, rtol=1e-4)


def test_dino_has_student_and_teacher(tmp_path: Path) -> None:
    student, teacher = network(), network()
    with torch.no_grad():
        teacher.cls_token.add_(1.0)  # type: ignore[operator]
    path = save(
        tmp_path / "c.pth",
        {
            "student": under("module.backbone.", student.state_dict()),
            "teacher": under("backbone.", teacher.state_dict()),
            "args": argparse.Namespace(arch="vit_small"),
        },
    )
    config = recognize_encoder(read_tensors(path))
    assert config == {
        "kind": "vit", "width": 64, "depth": 2, "heads": 1, "patch": 8, "pool": "cls",
        "positions": "learned",
    }  # fmt: skip
    del config["kind"]
    for branch, source in (("auto", student), ("target", teacher)):
        encoder = ViT(IMAGE, **config).eval()
        assert load_checkpoint(encoder, path, branch=branch).layout == "dino"  # type: ignore[arg-type]
        torch.testing.assert_close(encoder(images()), source(images()), atol=1e-5, rtol=1e-4)


def bridle_file(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Write the layout of BRIDLE: frames are rows, and a tokenizer has the same names."""
    source, tokenizer = network((64, 16), 1, global_pool="avg"), network((64, 16), 1)
    state = under("encoder_decoder.", source.state_dict())
    state |= under(
        "tokenizer.", {n: torch.zeros_like(t) for n, t in tokenizer.state_dict().items()}
    )
    state["encoder_decoder.decoder_embed.weight"] = torch.zeros(2, 2)
    state["tokenizer.quantizer.codebooks.0.weight"] = torch.zeros(9, 4)
    args = argparse.Namespace(model="vit_b", kmeans_init=True)
    content = {"model": state, "optimizer": {}, "epoch": 139, "scaler": {}, "args": args}
    return save(tmp_path / "checkpoint-139.pth", content), source


def test_bridles_spectrograms_have_frames_first(tmp_path: Path) -> None:
    path, source = bridle_file(tmp_path)
    encoder = ViT(
        AUDIO, width=64, depth=2, heads=1, patch=8, pool="patches", positions="learned"
    ).eval()
    loaded = load_checkpoint(encoder, path)
    assert (loaded.layout, loaded.branch) == ("bridle", "encoder_decoder")
    x = torch.randn(3, 1, 16, 64)
    torch.testing.assert_close(encoder(x), source(x.transpose(2, 3)), atol=1e-5, rtol=1e-4)


def test_bridle_is_imported_without_being_told_a_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = network((64, 128), 1, global_pool="avg")  # 8 × 16 patches
    path = save(tmp_path / "c.pth", {"model": under("encoder_decoder.", source.state_dict())})
    arguments = ["import", str(path), "--from", "bridle", "--out", str(tmp_path / "e")]
    refused = CliRunner().invoke(app, arguments)
    assert "must be MEAN/STD of the log-mel spectrograms" in str(refused.exception)
    done = CliRunner().invoke(app, [*arguments, "--normalization", "-4.4446096/6.6432766"])
    assert done.exit_code == 0, done.output
    again = load_encoder(tmp_path / "e")
    assert again.input.shape == (1, 128, 64) and again.config["pool"] == "patches"
    x = torch.randn(2, 1, 128, 64)
    torch.testing.assert_close(again(x), source(x.transpose(2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "layout, heads, pool",
    [
        ("mocov3", 12, "cls"),
        ("mae", 2, "patches"),
        ("bridle", 2, "patches"),
        ("auto", 12, "cls"),
        ("dino", 2, "cls"),
    ],
)
def test_sizes_are_read_from_the_file(layout: str, heads: int, pool: str) -> None:
    shapes = dict(network((48, 32), 3).state_dict())
    wide = {n: t.repeat_interleave(2, 0) for n, t in shapes.items() if "patch_embed" in n}
    config = recognize_encoder(under("module.base_encoder.", shapes | wide), layout)
    assert config is not None and (config["heads"], config["pool"]) == (heads, pool)
    assert (config["width"], config["depth"], config["patch"]) == (128, 2, 8)
    odd = {"blocks.0.ls1.gamma": torch.ones(64), **shapes}  # a layer that ours does not have
    assert recognize_encoder(odd) is None


def test_separate_biases_of_queries_and_values_get_none_for_keys(tmp_path: Path) -> None:
    source = network()
    with torch.no_grad():
        for block in source.blocks:  # type: ignore[union-attr]
            block.attn.qkv.bias[64:128] = 0.0
    state = dict(source.state_dict())
    for number in range(2):
        query, _, value = state.pop(f"blocks.{number}.attn.qkv.bias").chunk(3)
        state |= {f"blocks.{number}.attn.{n}_bias": t for n, t in (("q", query), ("v", value))}
    path = save(tmp_path / "c.pth", state)
    config = recognize_encoder(read_tensors(path))
    assert config is not None and config.pop("kind") == "vit"
    encoder = ViT(IMAGE, **config).eval()
    load_checkpoint(encoder, path)
    torch.testing.assert_close(encoder(images()), source(images()), atol=1e-5, rtol=1e-4)


def test_what_the_encoder_would_drop_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", network().state_dict())
    without = save(
        tmp_path / "no.pth", {n: t for n, t in network().state_dict().items() if n != "pos_embed"}
    )
    keys = SMALL
    for file, own, message in (
        (path, {"positions": "learned"}, "has a class token, and the encoder has none. Set"),
        (path, {"pool": "cls"}, "has positions that differ from the fixed ones, so"),
        (without, {"pool": "cls"}, "has no positions, so the encoder would not be the same"),
    ):
        encoder = ViT(IMAGE, **keys, **own)  # type: ignore[arg-type]
        before = {n: t.clone() for n, t in encoder.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_checkpoint(encoder, file)
        assert all(torch.equal(t, before[n]) for n, t in encoder.state_dict().items())
    own_file = save(tmp_path / "own.pth", ViT(IMAGE, **keys).state_dict())
    load_checkpoint(ViT(IMAGE, **keys), own_file)  # our own names need no positions


def test_a_network_of_images_starts_one_of_spectrograms(tmp_path: Path) -> None:
    """Sum three colors; cut the middle rows, and interpolate along time, as AST does."""
    source = network()  # 4 × 4 patches of three colors
    path = save(tmp_path / "c.pth", source.state_dict())
    keys: dict[str, Any] = dict(SMALL, pool="cls", positions="learned")
    encoder = ViT(AUDIO, **keys)  # 2 × 8 patches
    with pytest.raises(ValueError, match="first missing one is 'patches.project.weight'"):
        load_checkpoint(encoder, path)
    assert encoder.patches.count == 16  # as many as the file's, on another grid
    load_checkpoint(encoder, path, adapt=True)
    kernel = source.patch_embed.proj.weight  # type: ignore[union-attr]
    summed = kernel[:, 0] + kernel[:, 1] + kernel[:, 2]  # type: ignore[index]
    torch.testing.assert_close(encoder.state_dict()["patches.project.weight"], summed.flatten(1))
    plane = source.pos_embed[0, 1:].T.reshape(1, 64, 4, 4)  # type: ignore[index]
    expected = interpolate(plane, size=(4, 8), mode="bilinear")[0, :, 1:3].flatten(1).T
    torch.testing.assert_close(encoder.state_dict()["places.table.weight"], expected)
    cls = source.cls_token + source.pos_embed[:, :1]  # type: ignore[index, operator]
    torch.testing.assert_close(encoder.state_dict()["cls"], cls)


def test_positions_of_another_grid_are_refused_even_if_they_are_as_many(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", network().state_dict())
    keys: dict[str, Any] = dict(SMALL, pool="cls", positions="learned")
    wide = ViT(Input((3, 16, 64), IMAGENET_MEAN, IMAGENET_STD), **keys)
    with pytest.raises(ValueError, match="first missing one is 'places.table.weight'"):
        load_checkpoint(wide, path)
