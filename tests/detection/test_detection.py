"""Transfer end to end on generated images: networks, loop, resuming, refusals."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.modules.batchnorm import _BatchNorm
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.data.detection.embedded import Pasted, boxes_of
from mezzotint.detection import training
from mezzotint.detection.average_precision import Detections
from mezzotint.detection.deeplab_v3 import DeepLabV3
from mezzotint.detection.detection import build, compared, plan, run_transfer
from mezzotint.detection.faster_rcnn import FasterRCNN
from mezzotint.detection.model import DetectionModel, Stages, channels, stride
from mezzotint.detection.recipes import read_transfer, shipped_transfers
from mezzotint.detection.training import Training, mirrored, recompute_batch_norm, score, train
from mezzotint.encoders.resnet import resnet8, resnet10, resnet50
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.table_mlp import TableMLP
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.optim.optimizer import SGD, AdamW
from mezzotint.optim.schedules import Constant
from mezzotint.recipe.schema import construct
from mezzotint.train.guard import Interrupted
from mezzotint.train.log import read_metrics
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.types import Input

INPUT = Input((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.25, 0.2))
SCENES = Pasted(images=4, test_images=2, size=48, scale=(16, 24))
SMALL: dict[str, Any] = {
    "min_size": [48], "max_size": 48, "proposals": (20, 10), "samples": 8, "channels": 8,
}  # fmt: skip
TINY = [
    "data.images=4", "data.test_images=2", "data.size=48", "data.scale=[16,24]", "training.steps=2",
    "training.batch_size=2", "training.precise_bn_batches=1", "model.proposals=[20,10]",
    "model.samples=8",
    "model.min_size=[48]", "model.max_size=48", "model.channels=8",
]  # fmt: skip


def network(kind: str, seed: int = 0) -> DetectionModel:
    torch.manual_seed(seed)
    encoder = resnet8(INPUT, stem="patch", width=4)
    if kind == "deeplab":
        return DeepLabV3(encoder, 10, crop=(32, 40), ohem_fraction=0.5)
    neck, masks = kind.split("+") if "+" in kind else (kind, "")
    anchors = [8, 16, 24] if neck == "c4" else [8, 16, 24, 32]
    return FasterRCNN(encoder, 10, neck=neck, masks=bool(masks), anchors=anchors, **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["c4", "fpn", "c4+masks", "fpn+masks", "deeplab"])
def test_every_network_learns_through_the_whole_encoder_and_finds(kind: str) -> None:
    made = network(kind).train()
    scenes = [SCENES.read("train", i) for i in range(2)]
    images = [s.image.float() / 255.0 for s in scenes]
    parts = made.losses(images, scenes)
    assert ("mask" in parts) is kind.endswith("masks") and all(
        torch.isfinite(v) for v in parts.values()
    )
    torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
    missing = [name for name, p in made.named_parameters() if p.grad is None]
    assert not missing
    names = list(made.named_tensors())
    assert "encoder.conv1.weight" in names and not any(
        ".stages." in name or "stem" in name for name in names
    )
    made.eval()
    with torch.no_grad():
        (one,) = made.predict([images[0][:, :40]])
    if isinstance(one, Detections):
        assert one.boxes.shape[1] == 4 and ((one.labels >= 0) & (one.labels < 10)).all()
        assert one.masks is None or one.masks.shape[1:] == (40, 48)
    else:
        assert one.shape == (40, 48) and int(one.max()) <= 10


def test_stages_are_the_encoders_feature_map() -> None:
    encoder = resnet10(INPUT, stem="imagenet", width=8).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = Stages(encoder, (1, 3, 4))(x)
    assert torch.equal(maps["2"], encoder.feature_map(x))
    for place, stage in enumerate((1, 3, 4)):
        assert maps[str(place)].shape == (
            2,
            channels(encoder, stage),
            *[64 // stride(encoder, stage)] * 2,
        )
    published = resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3), width=4)
    assert [stride(published, s) for s in (1, 2, 3, 4)] == [4, 8, 16, 32] and channels(
        published, 4
    ) == 128
    assert FasterRCNN(published, 3, **SMALL).parts.size == 14  # as the papers cut regions


def test_dilation_keeps_the_weights_and_the_size() -> None:
    torch.manual_seed(0)
    encoder = resnet50(Input((3, 64, 64), (0.5,) * 3, (0.5,) * 3), width=4)
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    made = DeepLabV3(encoder, 3)
    assert made.backbone(torch.zeros(1, 3, 64, 64))["0"].shape[2:] == (
        4,
        4,
    )  # an output stride of 16
    apart = [b.conv2.dilation for b in encoder.get_submodule("layer4").children()]  # type: ignore[union-attr]
    assert apart == [(2, 2), (4, 4), (8, 8)]
    for name, tensor in encoder.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(tensor, before[name])


def test_frozen_norms_stay_still() -> None:
    torch.manual_seed(0)
    made = FasterRCNN(
        resnet8(INPUT, stem="patch", width=4), 10, anchors=[16], norm="frozen", **SMALL
    ).train()
    norms = [m for m in made.encoder.modules() if isinstance(m, _BatchNorm)]
    assert not any(m.training or m.weight.requires_grad for m in norms)
    recompute_batch_norm(made, SCENES, Training(steps=1, batch_size=2, precise_bn_batches=1), 0)
    assert all(int(m.num_batches_tracked) == 0 for m in norms if m.num_batches_tracked is not None)


def test_mirroring_twice_is_nothing_and_boxes_follow_masks() -> None:
    scene = SCENES.read("train", 0)
    other = mirrored(scene)
    assert other.masks is not None and torch.equal(boxes_of(other.masks), other.boxes)
    assert torch.equal(mirrored(other).boxes, scene.boxes) and torch.equal(
        mirrored(other).image, scene.image
    )


def run(folder: Path, steps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    made = network("c4")
    settings = Training(steps=steps, batch_size=2, warmup_steps=2, precise_bn_batches=0)
    train(made, SCENES, SGD(lr=0.01), Constant(), settings, folder, seed=seed, progress="quiet")
    return {name: t.clone() for name, t in made.named_tensors().items()}


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "whole", 4)
    original = training._step

    def stopped(*args: Any) -> dict[str, float]:
        if args[6] == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(training, "_step", stopped)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", 4)
    monkeypatch.setattr(training, "_step", original)
    resumed = run(tmp_path / "parts", 4)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert [line["step"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [4]


def test_learning_a_few_scenes_by_heart_finds_them_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scenes = Pasted(
        images=2, test_images=1, size=48, scale=(20, 24), objects=(1, 1), one_class=True
    )
    made = FasterRCNN(
        resnet8(INPUT, stem="patch", width=8),
        1,
        anchors=[16, 24],
        **(SMALL | {"proposals": (40, 20)}),
    )
    settings = Training(steps=150, batch_size=2, warmup_steps=5, flip=0.0, precise_bn_batches=2)
    train(made, scenes, AdamW(lr=2e-3), Constant(), settings, tmp_path, seed=0, progress="quiet")
    scenes._made = {("test", 0): scenes.read("train", 0)}
    assert score(made, scenes, settings).metrics["boxes/AP50"] == pytest.approx(1.0)


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


@pytest.mark.parametrize("name", shipped_transfers())
def test_shipped_recipes_build_for_a_published_network(name: str) -> None:
    config = read_transfer(name)
    encoder = resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3), width=4)
    if name.startswith("pasted"):
        encoder = resnet8(INPUT, stem="patch", width=4)
    made = construct(config["model"], "DetectionModel", {"DetectionModel": (encoder, 20)})
    for section in ("optimizer", "schedule", "training"):
        construct(
            config[section],
            {"optimizer": "Optimizer", "schedule": "Schedule", "training": "Training"}[section],
            {},
        )
    masks = name.startswith("coco") and name != "coco_fpn_half" or name == "pasted_mask"
    assert made.needs == ("classes" if "deeplab" in name else "masks" if masks else "boxes")


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
