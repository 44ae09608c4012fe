"""Transfer end to end on generated images: networks, loop, resuming, refusals."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.data.detection.embedded import Pasted
from mezzotint.detection.detection import build, compared, plan, run_transfer
from mezzotint.detection.faster_rcnn import FasterRCNN
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.rows import TableMLP
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.types import Input

INPUT = Input((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))

SCENES = Pasted(images=4, test_images=2, size=48, scale=(16, 24))

TINY = [
    "data.images=4", "data.test_images=2", "data.size=48", "data.scale=[16,24]", "training.steps=2",
    "training.batch_size=2", "training.precise_bn_batches=1", "model.proposals=[20,10]",
    "model.samples=8",
    "model.min_size=[48]", "model.max_size=48", "model.channels=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    return save_encoder(
        resnet8(INPUT, stem="patch", width=4), tmp_path_factory.mktemp("encoder") / "e"
    )


def test_runs_are_compared_written_and_used_again(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["transfer", str(saved), "pasted_c4", *TINY, "--out", str(out)]
    first = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    table = json.loads(first.stdout.splitlines()[-1])["table"]
    assert [line["metric"] for line in table] == ["boxes/AP", "boxes/AP50", "boxes/AP75"]
    assert {p.name for p in out.iterdir()} >= {
        "pretrained-0",
        "untrained-0",
        "table.md",
        "evaluation.json",
    }
    rows, beside = read_evaluation(out), read_baselines(out).untrained
    assert {r.metric for r in rows} == {r.metric for r in beside} and "pasted/boxes/AP50" in {
        r.metric for r in rows
    }
    assert "model=faster_rcnn neck=c4 steps=2 batch=2" in str(rows[0].protocol)
    tuned = load_encoder(out / "pretrained-0")
    assert not torch.equal(
        tuned.state_dict()["conv1.weight"], load_encoder(saved).state_dict()["conv1.weight"]
    )
    stamp = (out / "pretrained-0" / "metrics.jsonl").stat().st_mtime_ns
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (out / "pretrained-0" / "metrics.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(RunDirectoryInUse, match="pretrained-0. is a run of another recipe"):
        CliRunner().invoke(app, [*arguments, "training.flip=0.0"], catch_exceptions=False)


def test_variants_differ_in_the_encoder_alone(saved: Path) -> None:
    what = plan(saved, "pasted_c4", TINY)
    one, other = (
        build(what, 0, variant, SCENES).named_tensors() for variant in ("pretrained", "untrained")
    )
    wanted = load_encoder(saved).state_dict()
    assert torch.equal(one["encoder.conv1.weight"], wanted["conv1.weight"])
    assert not torch.equal(other["encoder.conv1.weight"], wanted["conv1.weight"])
    fresh = [name for name in one if not name.startswith("encoder.")]
    assert fresh and all(torch.equal(one[name], other[name]) for name in fresh)


def test_masks_and_classes_are_scored(saved: Path, tmp_path: Path) -> None:
    masks = plan(saved, "pasted_mask", [*TINY, "model.anchors=[16,24]"], baseline=False)
    assert len(run_transfer(masks, tmp_path / "m", progress="quiet").lines) == 6
    small = [text for text in TINY if not text.startswith("model.")]
    classes = plan(saved, "pasted_deeplab", small, baseline=False)
    comparison = run_transfer(classes, tmp_path / "c", progress="quiet")
    assert (
        comparison.text.splitlines()[0] == "| metric | pretrained |"
        and "classes/mIoU" in comparison.text
    )


def test_differences_are_paired() -> None:
    (line,) = compared([{"a": 0.5}, {"a": 0.7}], [{"a": 0.4}, {"a": 0.6}]).lines
    assert line["difference"] == pytest.approx([0.1, 0.1, 0.1])
    assert line["pretrained"][0] == pytest.approx(0.6) and line["pretrained"][1] < 0.5
    assert "| a | – |" in compared([{"a": float("nan")}], None).text


def test_what_does_not_fit_is_refused_before_training(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = save_encoder(TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table")), tmp_path / "mlp")
    with pytest.raises(
        ValueError,
        match="kind table_mlp has no stages, which transfer needs. Supported: resnet8",
    ):
        plan(other)
    with pytest.raises(
        ValueError,
        match=r"no transfer recipe 'pasted_c5'. Give a folder .*Did you mean 'pasted_c4'",
    ):
        plan(saved, "pasted_c5")
    with pytest.raises(ValueError, match="has no folder Annotations. It must be in VOC format"):
        plan(saved, str(tmp_path))
    with pytest.raises(
        ValueError, match=r"`model.anchors` must be 4 sides, one for each level, .*got \[1, 2\]"
    ):
        FasterRCNN(resnet8(INPUT, stem="patch", width=4), 1, neck="fpn", anchors=[1, 2])
    with pytest.raises(
        ValueError,
        match="`views` is no section of a transfer recipe. Sections: data, model, optimizer",
    ):
        plan(saved, "pasted_c4", ["views.kind=two_views"])


def test_an_encoder_of_gray_images_is_refused(tmp_path: Path) -> None:
    gray = resnet8(Input((1, 8, 8), (0.5,), (0.5,)), stem="small", width=2)
    path = save_encoder(gray, tmp_path / "gray")
    with pytest.raises(ValueError, match="takes images of 1 channel.s., and transfer trains on"):
        plan(path, "pasted_c4", TINY)


def test_mask_rcnn_without_masks_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    for part in ("train", "val"):
        (tmp_path / f"{part}2017").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / f"{part}2017" / "1.png")
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError,
        match="is read without masks of objects, which faster_rcnn needs. Set `data`",
    ):
        plan(saved, str(tmp_path))
    assert plan(saved, str(tmp_path), ["model.masks=false"]).config["data"]["root"] == str(tmp_path)
