"""Checkpoints of other projects, in the layouts that they have."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from mezzotint import load_encoder
from mezzotint.cli import app
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18, resnet50
from mezzotint.interop.load import channels_of, load_checkpoint, read_tensors
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input

INPUT = Input((3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)


def small(seed: int, width: int = 8) -> Encoder:
    torch.manual_seed(seed)
    encoder = resnet18(INPUT, stem="small", width=width)
    for name, buffer in encoder.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    return encoder.eval()


def as_ssql(encoder: Encoder) -> dict[str, Tensor]:
    """Build the layout of the SSQL code: norms inside convolutions, weights twice, observers."""
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        parts = name.split(".")
        if parts[-2].startswith("bn"):
            parts[-2:] = [f"conv{parts[-2][2:]}", "bn_function", parts[-1]]
        elif "downsample" in parts:
            place = parts.index("downsample")
            parts[place + 1 : place + 2] = [] if parts[place + 1] == "0" else ["bn_function"]
        key = "module.encoder_q.model." + ".".join(parts)
        state[key] = tensor.clone()
        if tensor.ndim == 4:
            unit = key.removesuffix("weight")
            state[f"{unit}weight_quantizer.weight"] = tensor.clone()
            state[f"{unit}weight_quantizer.observer.min_val"] = tensor.amin((1, 2, 3))
            state[f"{unit}weight_quantizer.observer.max_val"] = tensor.amax((1, 2, 3))
            state[f"{unit}output_quantizer.observer.min_val"] = torch.zeros(1)
    for name, tensor in list(state.items()):  # the momentum copy of SSQL-BYOL, which is not wrapped
        if "quantizer" not in name and "bn_function" not in name:
            state[name.replace("encoder_q.model", "encoder_k")] = torch.zeros_like(tensor)
    state["module.encoder_q.model.fc.0.weight"] = torch.randn(4, 4)
    state["module.predictor.0.weight"] = torch.randn(4, 4)
    return state


def features(encoder: Encoder) -> Tensor:
    with torch.no_grad():
        found: Tensor = encoder(
            torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        )
    assert found.std() > 0.01  # features that are dead would be those of any network
    return found


def test_checkpoint_of_the_original_ssql_with_its_doubled_weights(tmp_path: Path) -> None:
    source, target = small(0), small(1)
    state = as_ssql(source)
    torch.save({"epoch": 400, "state_dict": state}, tmp_path / "c.pth.tar")
    loaded = load_checkpoint(target, tmp_path / "c.pth.tar")
    assert torch.equal(features(target), features(source))
    assert (loaded.layout, loaded.branch) == ("ssql", "module.encoder_q.model")
    assert loaded.loaded == loaded.total == len(source.state_dict())
    assert (
        loaded.left["second copies of weights"] == 20 and loaded.left["states of quantizers"] == 60
    )
    assert sum(loaded.left.values()) + loaded.loaded == len(state)
    assert str(loaded).startswith(
        f"loaded {loaded.total}/{loaded.total} tensors from module.encoder_q.model"
    )


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "backbone.", "module.encoder_q.", "module.base_encoder.", "student.x."],
)
def test_any_prefix(prefix: str, tmp_path: Path) -> None:
    source, target = small(0), small(1)
    state = {f"{prefix}{name}": t for name, t in source.state_dict().items()}
    state[f"{prefix}fc.weight"] = torch.randn(3, 3)
    save_file(state, tmp_path / "c.safetensors")
    assert load_checkpoint(target, tmp_path / "c.safetensors").left == {
        "heads, other branches and optimizers": 1
    }
    assert torch.equal(features(target), features(source))


def test_trained_branch_is_taken_before_its_momentum_copy(tmp_path: Path) -> None:
    online, copy, target = small(0), small(1), small(2)
    state = {f"momentum_encoder.{n}": t for n, t in copy.state_dict().items()}
    state |= {f"the_trained_encoder.{n}": t for n, t in online.state_dict().items()}
    torch.save(state, tmp_path / "c.pth")
    assert load_checkpoint(target, tmp_path / "c.pth").branch == "the_trained_encoder"
    assert torch.equal(features(target), features(online))


def test_wrong_architecture_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    torch.save(small(0).state_dict(), tmp_path / "c.pth")
    for wrong in (small(1, width=16), resnet50(INPUT, stem="small", width=8)):
        before = {name: t.clone() for name, t in wrong.state_dict().items()}
        with pytest.raises(ValueError, match=r"has \d+/\d+ tensors .* Choose the encoder"):
            load_checkpoint(wrong, tmp_path / "c.pth")
        assert all(torch.equal(t, before[name]) for name, t in wrong.state_dict().items())


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = small(0).state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight` of .* contains NaN or inf"):
        load_checkpoint(small(1), tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"layer1.0.conv1.lora_A.weight": torch.zeros(2, 8)}, "has low-rank updates"),
        (lambda s: {f"net.{k.replace('conv1.w', 'conv1.base_layer.w')}": t for k, t in s.items()},
         "has low-rank updates .*merge_and_unload"),
        (lambda s: s | {"conv1.weight": s["conv1.weight"].to("meta")}, "has no dense values"),
    ],
    ids=["updates", "wrapped", "empty"],
)  # fmt: skip
def test_weights_that_are_not_those_of_the_network_are_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    torch.save(change(small(0).state_dict()), tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(small(1), tmp_path / "c.pth")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_floats_of_few_bits_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        k: t.to(dtype) if t.is_floating_point() else t for k, t in small(0).state_dict().items()
    }
    torch.save(state, tmp_path / "c.pth")
    encoder = small(1)
    load_checkpoint(encoder, tmp_path / "c.pth")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype)), name


def test_the_stem_alone_is_adapted_where_blocks_have_layers_of_its_name(tmp_path: Path) -> None:
    """A 3 x 3 stem and the first layer of a block differ in their inputs alone."""
    source = small(0)
    torch.save({f"net.{k}": t for k, t in source.state_dict().items()}, tmp_path / "c.pth")
    other = resnet18(Input((5, 32, 32), (0.5,) * 5, (0.5,) * 5), stem="small", width=8)
    said = load_checkpoint(other, tmp_path / "c.pth", adapt=True).adapted
    assert said == ("net.conv1.weight adapted from 3 to 5 channels",)
    name = "layer1.0.conv1.weight"
    assert torch.equal(other.state_dict()[name], source.state_dict()[name])


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not be printed",))


def test_options_of_a_run_are_read_as_plain_data(tmp_path: Path) -> None:
    """BRIDLE's, MAE's and DINO's checkpoints save `args`, an argparse.Namespace."""
    args = argparse.Namespace(lr=0.1, betas=[0.9, 0.95], nested={"model": "vit_b"}, resume=None)
    torch.save({"model": small(0).state_dict(), "args": args, "epoch": 139}, tmp_path / "c.pth")
    tensors = read_tensors(tmp_path / "c.pth")
    assert tensors.keys() == small(0).state_dict().keys()
    with pytest.raises(ValueError, match="weights_only|Unsupported|more than tensors"):
        try:  # nothing stays permitted for other readers in this process
            torch.load(tmp_path / "c.pth", weights_only=True)
        except Exception as error:
            raise ValueError(str(error)) from error


@pytest.mark.parametrize(
    "extra",
    [_Hostile(), argparse.Namespace(lr=0.1, path=_Hostile())],
    ids=["code", "code in a namespace"],
)
def test_pickles_that_need_code_are_refused(
    extra: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": small(0).state_dict(), "args": extra}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="contains more than tensors .* could run code"):
        read_tensors(tmp_path / "c.pth")
    assert "must not be printed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is not a readable torch checkpoint"),
        (b"a,b\n", "is not a (readable )?torch checkpoint"),
        (b'{"a": 1}', "is not a (readable )?torch checkpoint"),
        (b"not a checkpoint at all", "is not a (readable )?torch checkpoint"),
        (b"II*\0\x08\0\0\0", "is not a torch checkpoint. Give"),
    ],
)
def test_files_that_are_no_checkpoints(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "c.pth")
    with pytest.raises(ValueError, match="is not a file"):
        read_tensors(tmp_path / "other.pth")


def test_command_line(tmp_path: Path) -> None:
    source = small(0)
    torch.save({"state_dict": as_ssql(source)}, tmp_path / "c.pth.tar")
    keys = ["kind=resnet18", "stem=small", "width=8"]
    done = CliRunner().invoke(
        app,
        [
            "import",
            str(tmp_path / "c.pth.tar"),
            *keys,
            "--size",
            "32",
            "--out",
            str(tmp_path / "e"),
        ],
    )
    assert done.exit_code == 0, done.output
    count = len(source.state_dict())
    assert (
        f"loaded {count}/{count} tensors from module.encoder_q.model (ssql layout)" in done.output
    )
    again = load_encoder(tmp_path / "e")
    assert torch.equal(features(again), features(source)) and again.input == INPUT


@pytest.mark.parametrize(
    ("online", "copy"), [("student", "teacher"), ("state_dict", "state_dict_ema"), ("model", "ema")]
)
def test_a_network_and_its_copy_in_parts_of_a_checkpoint(
    online: str, copy: str, tmp_path: Path
) -> None:
    networks = {online: small(0), copy: small(1)}
    torch.save({n: e.state_dict() for n, e in networks.items()} | {"epoch": 3}, tmp_path / "c.pt")
    count = len(small(0).state_dict())
    for branch, name, rest in (
        ("auto", online, "momentum copy, --branch target"),
        ("online", online, "momentum copy, --branch target"),
        ("target", copy, "trained network, --branch online"),
    ):
        encoder = small(2)
        loaded = load_checkpoint(encoder, tmp_path / "c.pt", branch=branch)  # type: ignore[arg-type]
        assert torch.equal(features(encoder), features(networks[name]))
        assert loaded.branch == name and loaded.left == {rest: count}
        assert f"{count} ignored: {rest}" in str(loaded)


def test_the_channels_that_a_file_takes(tmp_path: Path) -> None:
    for channels in (1, 3, 5):
        input = Input((channels, 32, 32), (0.5,) * channels, (0.25,) * channels)
        state = {
            f"backbone.{n}": t
            for n, t in resnet18(input, stem="small", width=8).state_dict().items()
        }
        assert channels_of(small(0), state, "auto") == channels


def test_an_encoder_of_gray_images_is_imported(tmp_path: Path) -> None:
    input = Input((1, 32, 32), (0.5,), (0.25,))
    source = resnet18(input, stem="small", width=8).eval()
    save_file(source.state_dict(), tmp_path / "c.safetensors")
    arguments = ["import", str(tmp_path / "c.safetensors"), "--size", "32"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "encoder")])
    assert result.exit_code == 0, result.output
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.input.shape == (1, 32, 32) and loaded.input.modality == "image"
    assert loaded.input.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,))
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(loaded(x), source(x))
