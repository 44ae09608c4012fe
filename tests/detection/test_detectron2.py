"""Export to detectron2: names, round trip, hostile files, branches."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.detection.detectron2 import (
    from_detectron2,
    read_detectron2,
    to_detectron2,
    write_detectron2,
)
from mezzotint.encoders.resnet import resnet18, resnet50
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import save_encoder
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input

RGB = Input((3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer2.0.downsample.1.bias", "res3.0.shortcut.norm.bias"),
        ("layer3.5.conv3.weight", "res4.5.conv3.weight"),
        ("layer4.2.bn2.num_batches_tracked", "res5.2.conv2.norm.num_batches_tracked"),
    ],
)
def test_names_are_detectron2s(ours: str, theirs: str) -> None:
    assert to_detectron2(ours) == theirs and from_detectron2(theirs) == ours


def test_every_name_of_torchvisions_resnet50_goes_there_and_back() -> None:
    with torch.device("meta"):
        names = [n for n in torchvision.models.resnet50().state_dict() if not n.startswith("fc.")]
    assert [from_detectron2(to_detectron2(n)) for n in names] == names
    assert len({to_detectron2(n) for n in names}) == len(names) == 318
    with pytest.raises(ValueError, match="fc.weight"):
        to_detectron2("fc.weight")


def test_what_is_written_is_read_back_and_plain(tmp_path: Path) -> None:
    encoder = resnet18(RGB, width=4)
    file, settings = write_detectron2(encoder, tmp_path / "new" / "out.pkl")
    found, wanted = read_detectron2(file), encoder.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
    content = pickle.loads(file.read_bytes())  # noqa: S301 - as detectron2 does, with the standard unpickler
    assert content["__author__"] == "torchvision" and content["matching_heuristics"] is True
    assert content["model"]["res2.0.conv1.weight"].flags.writeable
    told = yaml.safe_load(settings.read_text())
    assert (
        told["MODEL"]["RESNETS"]["DEPTH"] == 18
        and told["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False
    )
    assert (
        told["MODEL"]["PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
        and told["INPUT"]["FORMAT"] == "RGB"
    )
    written = write_detectron2(resnet50(RGB, width=8), file)[1]
    assert yaml.safe_load(written.read_text())["MODEL"]["RESNETS"] == {
        "DEPTH": 50,
        "STRIDE_IN_1X1": False,
        "NORM": "SyncBN",
        "STEM_OUT_CHANNELS": 8,
        "RES2_OUT_CHANNELS": 32,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_that_numpy_pickled_are_read_too(tmp_path: Path, protocol: int) -> None:
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    (tmp_path / "a.pkl").write_bytes(
        pickle.dumps({"model": {"stem.conv1.weight": weight}}, protocol=protocol)
    )
    assert torch.equal(
        read_detectron2(tmp_path / "a.pkl")["conv1.weight"], torch.from_numpy(weight)
    )


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/mezzotint-was-here",)


def test_a_hostile_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": Hostile()}}))
    with pytest.raises(
        ValueError, match=r"names (posix|nt)\.system, and reading it could run code\. Only named"
    ):
        read_detectron2(file)
    assert not Path("/tmp/mezzotint-was-here").exists()
    for content, why in (
        (b"junk", "not a readable pickle|names"),
        (pickle.dumps({"model": {}}), "has no named arrays"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=why):
            read_detectron2(file)


def test_other_networks_and_suffixes_are_refused(tmp_path: Path) -> None:
    other = TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table"))
    with pytest.raises(
        ValueError,
        match="kind table_mlp has no stages, which detectron2 needs. Supported: resnet8",
    ):
        write_detectron2(other, tmp_path / "out.pkl")
    with pytest.raises(ValueError, match=r"must end in \.pkl"):
        write_detectron2(resnet18(RGB, width=4), tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())


def test_the_default_branch_may_be_named(tmp_path: Path) -> None:
    folder = save_encoder(resnet18(RGB, width=4), tmp_path / "e")
    plain, named = tmp_path / "plain.pkl", tmp_path / "named.pkl"
    for arguments in ([str(plain)], [str(named), "--branch", "online"]):
        result = CliRunner().invoke(
            app, ["detectron2", str(folder), *arguments], catch_exceptions=False
        )
        assert result.exit_code == 0 and "120 arrays" in result.stdout
    assert plain.read_bytes() == named.read_bytes()
    with pytest.raises(ValueError, match="must be online for .*, which is not a run, got target"):
        CliRunner().invoke(
            app,
            ["detectron2", str(folder), str(plain), "--branch", "target"],
            catch_exceptions=False,
        )
    with pytest.raises(ValueError, match="--branch must be online or target, got 'both'"):
        CliRunner().invoke(
            app, ["detectron2", str(folder), str(plain), "--branch", "both"], catch_exceptions=False
        )
