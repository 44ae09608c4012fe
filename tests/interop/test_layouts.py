"""Checkpoints in the layout of each project, written here; and files that must be refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from mezzotint import load_encoder
from mezzotint.cli import app
from mezzotint.encoders.audio_ntt import AudioNTT
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18, resnet34, resnet50
from mezzotint.interop.layouts import recognize_encoder
from mezzotint.interop.load import load_checkpoint
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input

INPUT = Input((3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)
State = dict[str, Tensor]


def network(seed: int, build: Callable[..., Encoder] = resnet18, width: int = 4) -> Encoder:
    torch.manual_seed(seed)
    encoder = build(INPUT, stem="small", width=width)
    for buffer in encoder.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return encoder.eval()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": t.clone() for name, t in state.items()}


def numbered(state: State) -> State:
    """The children of torchvision's network without its classifier, in a `Sequential`."""
    place = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {".".join([place[n.split(".")[0]], *n.split(".")[1:]]): t for n, t in state.items()}


def mocov3(online: State, copy: State) -> Any:
    state = under("module.base_encoder.", online) | under("module.momentum_encoder.", copy)
    state |= {
        f"module.{side}_encoder.fc.0.weight": torch.zeros(5, 5) for side in ("base", "momentum")
    }
    return {
        "epoch": 300,
        "arch": "resnet50",
        "state_dict": state | {"module.predictor.0.weight": torch.zeros(2, 2)},
    }


def airl(online: State, copy: State) -> Any:
    state = under("module.online_encoder.backbone.", online) | under(
        "module.target_encoder.backbone.", copy
    )
    return {
        "start_epoch": 200,
        "model": state | {"module.online_encoder.fc.0.weight": torch.zeros(2, 2)},
    }


def moco(online: State, copy: State) -> Any:
    return {
        "model": under("module.encoder_q.", online)
        | under("module.encoder_k.", copy)
        | {"module.queue": torch.zeros(2, 9)}
    }


def solo(online: State, copy: State) -> Any:
    state = (
        under("backbone.", online)
        | under("momentum_backbone.", copy)
        | {"classifier.weight": torch.zeros(2, 2)}
    )
    return {
        "state_dict": state,
        "hyper_parameters": {"_target_": "os.system", "lr": 0.3},
        "epoch": 1,
    }


def massrl(online: State, copy: State) -> Any:
    state = under("encoder.", online) | under("momentum_encoder.", copy)
    return {
        "state_dict": state | {"projector.0.weight": torch.zeros(2, 2)},
        "pytorch-lightning_version": "1.5",
    }


def lightly(online: State, copy: State) -> Any:
    return {
        "state_dict": under("backbone.", numbered(online))
        | under("backbone_momentum.", numbered(copy))
    }


def vissl(online: State, copy: State) -> Any:
    model = {
        "trunk": under("_feature_blocks.", online),
        "heads": {"0.clf.weight": torch.zeros(2, 2)},
    }
    return {"classy_state_dict": {"base_model": {"model": model}}, "phase_idx": 3}


def torchvision(online: State, copy: State) -> Any:
    return online | {"fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}


CASES = {
    "mocov3": (mocov3, "mocov3", "module.base_encoder", "module.momentum_encoder"),
    "randquant": (mocov3, "mocov3", "module.base_encoder", "module.momentum_encoder"),
    "airl": (airl, "airl", "module.online_encoder.backbone", "module.target_encoder.backbone"),
    "airl, MoCo": (moco, "plain", "module.encoder_q", "module.encoder_k"),
    "solo": (solo, "solo", "backbone", "momentum_backbone"),
    "massrl": (massrl, "solo", "encoder", "momentum_encoder"),
    "lightly": (lightly, "lightly", "backbone", "backbone_momentum"),
    "vissl": (vissl, "vissl", "trunk._feature_blocks", ""),
    "torchvision": (torchvision, "plain", "", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_each_layout_by_name_and_by_itself(case: str, tmp_path: Path) -> None:
    write, recognized, online_at, copy_at = CASES[case]
    online, copy = network(0), network(1)
    torch.save(write(online.state_dict(), copy.state_dict()), tmp_path / "c.pth")
    count = len(online.state_dict())
    for layout, branch in (
        ("auto", "auto"),
        (case.partition(",")[0], "auto"),
        (case.partition(",")[0], "online"),
    ):
        target = network(2)
        loaded = load_checkpoint(target, tmp_path / "c.pth", layout, branch=branch)  # type: ignore[arg-type]
        assert (loaded.loaded, loaded.total, loaded.branch) == (count, count, online_at)
        assert layout != "auto" or loaded.layout == recognized
        assert all(
            torch.equal(t, online.state_dict()[name]) for name, t in target.state_dict().items()
        )
        assert str(loaded).startswith(f"loaded {count}/{count} tensors")
    target = network(2)
    if copy_at:
        loaded = load_checkpoint(
            target,
            tmp_path / "c.pth",
            case.partition(",")[0],  # type: ignore[arg-type]
            branch="target",
        )
        assert loaded.branch == copy_at
        assert all(
            torch.equal(t, copy.state_dict()[name]) for name, t in target.state_dict().items()
        )
    else:
        with pytest.raises(ValueError, match=r"has 0/\d+ tensors .* branch target"):
            load_checkpoint(target, tmp_path / "c.pth", branch="target")


def test_half_precision_and_missing_counters_load(tmp_path: Path) -> None:
    source = network(0)
    state = {n: t.half() if t.is_floating_point() else t for n, t in source.state_dict().items()}
    save_file(
        {n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "c.safetensors"
    )
    target = network(1)
    loaded = load_checkpoint(target, tmp_path / "c.safetensors", "torchvision")
    assert loaded.loaded < loaded.total  # said, not hidden
    assert target.state_dict()["conv1.weight"].dtype == torch.float32


def test_an_explicit_prefix_and_the_wrong_layout(tmp_path: Path) -> None:
    online, copy = network(0), network(1)
    torch.save(mocov3(online.state_dict(), copy.state_dict()), tmp_path / "c.pth")
    target = network(2)
    load_checkpoint(target, tmp_path / "c.pth", prefix="module.momentum_encoder")
    assert torch.equal(target.state_dict()["conv1.weight"], copy.state_dict()["conv1.weight"])
    for keys in ({"prefix": "encoder"}, {"layout": "vissl", "branch": "online"}):
        with pytest.raises(ValueError, match=r"has 0/\d+ tensors of resnet18"):
            load_checkpoint(target, tmp_path / "c.pth", **keys)  # type: ignore[arg-type]


def test_most_of_a_network_is_no_network(tmp_path: Path) -> None:
    state = network(0).state_dict()
    for count, name in enumerate(["layer4.1.conv2.weight", "layer1.0.bn1.running_var"], start=1):
        state.pop(name)
        torch.save(state, tmp_path / "c.pth")
        with pytest.raises(ValueError, match=rf"has {len(state)}/{len(state) + count} tensors"):
            load_checkpoint(network(1), tmp_path / "c.pth")


def test_absurd_shapes_and_types_are_refused(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(1).expand(10**12)  # one number on disk
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"first missing one is 'layer1.0.conv1.weight'"):
        load_checkpoint(network(1), tmp_path / "c.pth")
    state = network(0).state_dict()
    state["conv1.weight"] = torch.ones_like(state["conv1.weight"]).to(torch.int64)
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(
        ValueError, match=r"conv1.weight` .* must be floating point, got torch.int64"
    ):
        load_checkpoint(network(1), tmp_path / "c.pth")


@pytest.mark.parametrize("build", [resnet18, resnet34, resnet50])
def test_architecture_is_told_by_the_names(build: Callable[..., Encoder]) -> None:
    encoder = network(0, build, width=6)
    expected = {"kind": build.__name__, "stem": "small", "width": 6}
    assert recognize_encoder(under("module.encoder_q.", encoder.state_dict())) == expected
    assert recognize_encoder(under("backbone.", numbered(encoder.state_dict()))) == expected
    assert recognize_encoder({"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}) is None


def test_command_line_tells_the_architecture_and_records_the_normalization(tmp_path: Path) -> None:
    online = network(0)
    torch.save(mocov3(online.state_dict(), network(1).state_dict()), tmp_path / "c.pth")
    arguments = ["import", str(tmp_path / "c.pth"), "--size", "32", "--out", str(tmp_path / "e")]
    done = CliRunner().invoke(app, [*arguments, "--from", "mocov3", "--normalization", "cifar10"])
    assert done.exit_code == 0, done.output
    again = load_encoder(tmp_path / "e")
    assert again.input.mean == (0.4914, 0.4822, 0.4465)
    made_by = json.loads((tmp_path / "e" / "encoder.json").read_text())["made_by"]
    assert made_by["normalization"] == "cifar10" and made_by["branch"] == "module.base_encoder"
    assert torch.equal(again.state_dict()["conv1.weight"], online.state_dict()["conv1.weight"])


def test_byol_a_weights_show_their_size_and_ask_for_their_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = AudioNTT(Input((1, 64, 96), (0.0,), (1.0,), "audio"), dim=16, width=4)
    torch.save(source.state_dict(), tmp_path / "c.pth")
    arguments = [
        "import",
        str(tmp_path / "c.pth"),
        "--from",
        "byol_a",
        "--out",
        str(tmp_path / "e"),
    ]
    refused = CliRunner().invoke(app, arguments)
    assert "must be MEAN/STD of the log-mel spectrograms" in str(refused.exception)
    done = CliRunner().invoke(app, [*arguments, "--normalization", "-7.1/4.2"])
    assert done.exit_code == 0, done.output
    again = load_encoder(tmp_path / "e")
    assert (again.input.mean, again.input.std) == ((-7.1,), (4.2,))
    assert torch.equal(again.state_dict()["fc.3.weight"], source.state_dict()["fc.3.weight"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--from", "byola"], "--from must be one of auto, plain, mocov3"),
        (["--branch", "left"], "--branch must be one of auto, online, target, got 'left'"),
        (["--normalization", "mnist"], "--normalization must be one of imagenet"),
        (["kind"], "Keys of the encoder are KEY=VALUE"),
    ],
)
def test_options_that_cannot_be(arguments: list[str], message: str, tmp_path: Path) -> None:
    torch.save(network(0).state_dict(), tmp_path / "c.pth")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "c.pth"), *arguments])
    assert message in str(done.exception)
