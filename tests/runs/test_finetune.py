"""Fine-tuning end to end, on the embedded digits."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from mezzotint import load_encoder
from mezzotint.cli import app
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image.native import Native
from mezzotint.data.labeled import Labeled
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.evaluation.summary import summary
from mezzotint.modality.modality import modality_of
from mezzotint.quant.bitwidth import bits
from mezzotint.recipe.schema import RecipeError
from mezzotint.report.page import write_report
from mezzotint.runs.finetune import finetune, handmade, majority, plan, variant_recipe, warm
from mezzotint.train.rundir import RunDirectoryInUse

FAST = ["run.epochs=2", "run.batch_size=64", "views.flip=0.0", "run.log.every_steps=1"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    made = resnet8(EmbeddedImages(name="digits").input, stem="small", width=4)
    return save_encoder(made, tmp_path_factory.mktemp("encoder") / "e")


def test_the_classifier_is_scored_on_the_mean_of_its_logits_over_crops(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (16, 40, 3), dtype=np.uint8))
        image.save(folder / f"{number}.png")
    source = ImageFolder(root=str(tmp_path / "images"), size=16)
    torch.manual_seed(5)
    start = save_encoder(resnet8(source.input, stem="small", width=4), tmp_path / "e")
    fast = [
        *FAST,
        f"data.source={json.dumps(source.config)}",
        "run.batch_size=8",
        "evaluate.bits=[8/8]",
    ]
    what = plan(start, "supervised/finetune", fast, baselines=False, crops=3)
    rows = finetune(what, tmp_path / "out", progress="quiet").rows
    assert {row.bits.weight for row in rows} == {8, 32}
    assert all((row.protocol.probe, row.protocol.crops) == ("finetune", 3) for row in rows)
    tuned = load_encoder(tmp_path / "out" / "finetuned-0")
    head = load_file(tmp_path / "out" / "finetuned-0" / "encoder" / "classifier.safetensors")
    read, (task,) = source.evaluation()
    parts = read.multi_crop(1, 3)
    squares = torch.stack(
        [parts.read(index)["x"] for index in task.test.tolist()]
    )  # [N, 3, C, H, W]
    with torch.no_grad():
        x = source.input.normalize(source.input.as_float(squares.flatten(0, 1)))
        logits = (
            (tuned(x) @ head["weight"].T + head["bias"]).view(len(task.test), 3, -1).mean(dim=1)
        )
    right = float((logits.argmax(1) == torch.from_numpy(task.labels[task.test])).double().mean())
    assert (
        next(row.value for row in rows if row.metric.endswith("/top1") and row.bits.is_float)
        == right
    )
    with pytest.raises(ValueError, match="`clips` must be 1 and `crops` 1 or more for images"):
        plan(start, "supervised/finetune", fast, clips=2)


def test_native_images_keep_their_range_and_channels(tmp_path: Path) -> None:
    """The class is in the low 4 of 16 bits of two channels: 8-bit RGB has nothing of it."""
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 4, (12, 12, 2)) + 4096
        values[6 * (number % 2) :][:6] += 12
        tifffile.imwrite(
            folder / f"{number}.tif", values.astype(np.uint16),
            photometric="minisblack", planarconfig="contig",
        )  # fmt: skip
    source = ImageFolder(root=str(tmp_path / "images"), size=12, reader=Native(range="percentiles"))
    torch.manual_seed(5)
    encoder = resnet8(source.input, stem="small", width=4)
    start = save_encoder(encoder, tmp_path / "e", source=source)
    fast = [*FAST, "run.batch_size=8", "run.epochs=6", "views.crop.scale=[0.9,1.0]"]
    what = plan(start, str(tmp_path / "images"), fast, baselines=False)
    rows = finetune(what, tmp_path / "out", progress="quiet").rows
    tuned = load_encoder(tmp_path / "out" / "finetuned-0")
    assert tuned.input == source.input and tuned.input.range[0][0] < 4100
    assert next(row.value for row in rows if row.metric.endswith("/top1")) == 1.0


def test_runs_score_and_are_used_again(encoder: Path, tmp_path: Path) -> None:
    what = plan(
        encoder,
        "digits",
        [*FAST, "data.fraction=0.1", "data.balance.samples=128", "evaluate.bits=[4/4]"],
    )
    rows = finetune(what, tmp_path / "out", progress="quiet").rows
    found = {(row.probe, row.metric, row.bits.weight): row for row in rows}
    row = found["finetune", "digit/holdout/top1", 32]
    assert (
        "fraction=0.1 balance=128/again" in str(row.protocol)
        and "train=143 test=358" in str(row.protocol)
        and "select=last" in str(row.protocol)
    )
    assert found["majority", "digit/holdout/top1", 32].value == pytest.approx(0.1, abs=0.01)
    assert ("finetune_scratch", "digit/holdout/top1", 32) in found and (
        "finetune",
        "digit/holdout/top1",
        4,
    ) in found
    assert read_evaluation(tmp_path / "out") == rows
    assert {r.probe for r in read_baselines(tmp_path / "out").untrained} == {"finetune"}
    # What stands on disk is the network that was scored.
    tuned = load_encoder(tmp_path / "out" / "finetuned-0")
    source, (task,) = EmbeddedImages(name="digits").evaluation()
    head = load_file(tmp_path / "out" / "finetuned-0" / "encoder" / "classifier.safetensors")
    logits = (
        extract(tuned, source, indices=torch.from_numpy(task.test)) @ head["weight"].T
        + head["bias"]
    )
    right = logits.argmax(1) == torch.from_numpy(task.labels[task.test])
    assert float(right.double().mean()) == pytest.approx(row.value)
    assert not torch.equal(
        tuned.state_dict()["conv1.weight"], load_encoder(encoder).state_dict()["conv1.weight"]
    )
    stamp = (tmp_path / "out" / "finetuned-0" / "metrics.jsonl").stat().st_mtime_ns
    assert finetune(what, tmp_path / "out", progress="quiet").rows == rows
    assert (tmp_path / "out" / "finetuned-0" / "metrics.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(RunDirectoryInUse, match="holds a run of another recipe"):
        finetune(
            plan(encoder, "digits", [*FAST, "optimizer.lr=1"]), tmp_path / "out", progress="quiet"
        )


def test_variants_differ_in_their_start_alone_and_seeds_in_labels(encoder: Path) -> None:
    what = plan(encoder, "digits", [*FAST, "data.per_class=3"], seeds=2)
    tuned, scratch, still = (
        variant_recipe(what, 0, name) for name in ("finetuned", "scratch", "untrained")
    )
    weight = load_encoder(encoder).state_dict()["conv1.weight"]
    assert torch.equal(tuned.encoder.state_dict()["conv1.weight"], weight)
    assert not torch.equal(scratch.encoder.state_dict()["conv1.weight"], weight)
    assert all(not p.requires_grad for p in still.encoder.parameters())
    assert (
        tuned.data.fingerprint()
        == scratch.data.fingerprint()
        != variant_recipe(what, 1, "scratch").data.fingerprint()
    )
    assert tuned.run.batch_size == 30  # an epoch of 30 labeled samples fills one batch


def test_the_majority_is_the_largest_class_of_the_whole_training_part(
    encoder: Path, tmp_path: Path
) -> None:
    """Two samples a class hide that three quarters of the samples have the second class."""
    y = np.array(["rare", "usual", "usual", "usual"] * 25)
    x = np.random.default_rng(0).integers(0, 255, (100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    what = plan(encoder, str(tmp_path / "data.npz"), [*FAST, "data.per_class=2"])
    recipe = variant_recipe(what, 0, "finetuned")
    assert isinstance(recipe.data, Labeled) and len(recipe.data) == 4
    top1 = Row(probe="finetune", metric="t/top1", value=0.0, protocol=Protocol(probe="finetune"))
    (found,) = majority(recipe, [top1])
    answers = np.asarray(recipe.data.task.labels)[recipe.data.task.test]
    usual = list(recipe.data.task.classes).index("usual")
    assert found.value == pytest.approx((answers == usual).mean()) and found.value > 0.5


def test_hand_made_features_are_probed_with_the_same_labels(encoder: Path) -> None:
    recipe = variant_recipe(plan(encoder, "digits", [*FAST, "data.per_class=20"]), 0, "finetuned")
    data = cast(Labeled, recipe.data)
    found = {row.metric: row for row in handmade(recipe, 3)}
    top1 = found["digit/holdout/top1"]
    assert (top1.probe, top1.seed) == ("finetune", 3)
    sides = []
    for part in (data.chosen, torch.from_numpy(np.asarray(data.task.test))):
        x = data.samples.input.prepare(torch.stack([data.samples.read(int(i))["x"] for i in part]))
        made = modality_of(data.samples.input).handmade_features(x, data.samples.input)
        assert made is not None
        sides.append((made.numpy(), data.all_labels[part].numpy()))
    (train, y), (test, answers) = sides
    assert len(y) == 200
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std < 1e-6] = 1.0
    reference = LogisticRegression(max_iter=5000, C=1.0).fit((train - mean) / std, y)
    score = float((reference.predict((test - mean) / std) == answers).mean())
    assert top1.value == pytest.approx(score, abs=0.03)


def test_warm_head_is_the_linear_probe(encoder: Path) -> None:
    recipe = variant_recipe(plan(encoder, "digits", [*FAST, "data.per_class=20"]), 0, "finetuned")
    warm(recipe)
    method, data = cast(Any, recipe.method), cast(Any, recipe.data)
    features = extract(recipe.encoder, data.samples, indices=data.chosen)
    right = method.classify(features).argmax(1) == data.all_labels[data.chosen]
    assert float(right.float().mean()) > 0.7  # the fresh one is at a tenth


def test_at_low_bits(encoder: Path, tmp_path: Path) -> None:
    what = plan(
        encoder,
        "digits",
        [*FAST, "data.per_class=5", "method.bits=W4A4", "evaluate.bits=[2/8]"],
        baselines=False,
    )
    what.config["evaluate"] |= {"ptq": ["min_max", "batch_norm"], "calibration_samples": 512}
    rows = finetune(what, tmp_path / "out", progress="quiet").rows
    assert {str(row.bits) for row in rows} == {"fp32", "W4A4", "W2A8"}
    for how in ("min_max", "batch_norm"):
        at = {
            r.metric.rpartition("/")[2]: r
            for r in rows
            if r.bits.weight == 2 and r.protocol.ptq_method == how
        }
        level = next(r.value for r in rows if r.bits.is_float and r.metric.endswith("/top1"))
        assert at["gained"].value - at["lost"].value == pytest.approx(at["top1"].value - level)
        assert "calibration=50" in str(at["top1"].protocol)  # all there are: five of ten classes
    # Right after training, and from the checkpoint: the layout in memory that training chose has no
    # say.
    assert finetune(what, tmp_path / "out", progress="quiet").rows == rows
    assert getattr(load_encoder(tmp_path / "out" / "finetuned-0"), "quantization") == "ssql"  # noqa: B009


def test_a_head_on_quantized_features(encoder: Path, tmp_path: Path) -> None:
    """SSQL's protocol A: scored by the same quantized encoder, with an untrained one beside it."""
    given = [*FAST, "data.per_class=5", "method.freeze=true", "method.bits=W2A4"]
    rows = finetune(plan(encoder, "digits", given), tmp_path / "out", progress="quiet").rows
    own = [row for row in rows if row.probe == "finetune"]
    assert {str(row.bits) for row in own} == {"W2A4"} and {r.probe for r in rows} == {
        "finetune", "majority",
    }  # fmt: skip
    top1 = next(row for row in own if row.metric.endswith("/top1"))
    how = str(top1.protocol)
    assert "frozen=True" in how and "views=augmented calibration=50" in how
    # By hand, from the files of the run: the saved encoder with its saved ranges.
    run = tmp_path / "out" / "finetuned-0"
    tuned, head = load_encoder(run), load_file(run / "encoder" / "classifier.safetensors")
    source, (task,) = EmbeddedImages(name="digits").evaluation()
    with bits(tuned, weight=2, activation=4):
        features = extract(tuned, source, indices=torch.from_numpy(task.test))
    logits = features @ head["weight"].T + head["bias"]
    right = logits.argmax(1) == torch.from_numpy(task.labels[task.test])
    assert float(right.double().mean()) == pytest.approx(top1.value)
    # The table and the page show it, with the untrained encoder at the same bits.
    lines = {line[1]: line for line in summary(tmp_path / "out")}
    (untrained,) = (
        row for row in read_baselines(tmp_path / "out").untrained if row.metric == top1.metric
    )
    assert str(untrained.bits) == "W2A4"
    assert lines["finetune W2A4 min_max"][3] == f"{untrained.value:.3f}"
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "W2A4" in page and f"{top1.value:.3f}" in page
    assert not (tmp_path / "out" / "scratch-0").exists()
    with pytest.raises(RecipeError, match="`evaluate.bits` must be fp32 when the head is trained"):
        plan(encoder, "digits", [*given, "evaluate.bits=[W8A8]"])


def test_command_line(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        "\n".join(
            f"digits/{i:06d}" for i in EmbeddedImages(name="digits").evaluation()[1][0].train[:40]
        )
    )
    arguments = [
        "finetune",
        str(encoder),
        "digits",
        *FAST,
        "--out",
        str(tmp_path / "o"),
        "--labels",
        str(tmp_path / "list.txt"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--no-baselines", "--json"])
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["rows"][0]["protocol"]["train"] == 40
    page = Path(last["report"]).read_text(encoding="utf-8")
    assert (
        "<h3>Loss, finetuned-0</h3>" in page
        and "<h3>Accuracy within the batch, finetuned-0</h3>" in page
    )


@pytest.mark.parametrize("bits", ["9/9", "1/33", "abc", ""])
def test_bits_that_cannot_be_name_the_option(bits: str, encoder: Path) -> None:
    done = CliRunner().invoke(app, ["finetune", str(encoder), "digits", "--bits", bits])
    assert str(done.exception).startswith(
        "`--bits` must be a pair of bit-widths such as W8A8 or W2A4, each 1 to 8 or 32, "
        f"got {bits!r}."
    )


@pytest.mark.parametrize(
    "what, overrides, message",
    [
        (None, [], "Data is missing: the encoder was saved"),
        (
            "image/emoji_simclr",
            [],
            "supervised on labeled data, got method simclr on data embedded_images",
        ),
        ("digits", ["encoder.width=8"], "the encoder is the saved one"),
        ("nowhere", [], "`nowhere` does not exist. Supported for"),
    ],
)
def test_what_cannot_be_is_refused(
    encoder: Path, what: str | None, overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan(encoder, what, overrides)


def test_stochastic_depth_is_the_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "data: {kind: labeled, source: {kind: embedded_images, name: digits}}\n"
        "encoder: {kind: vit, drop_path: 0.2}\nmethod: {kind: supervised, num_classes: 2}\n"
        "optimizer: {kind: sgd, lr: 0.1}\n"
    )
    keys: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "patch": 2}
    for made, wanted in (
        (ViT(EmbeddedImages(name="digits").input, **keys), 0.2),
        (resnet8(EmbeddedImages(name="digits").input, stem="small", width=4), None),
    ):
        config = plan(save_encoder(made, tmp_path / type(made).__name__), str(recipe)).config
        assert config["encoder"].get("drop_path") == wanted
        assert (
            config["encoder"]["width"] == made.config["width"]
            and config["method"]["num_classes"] == 10
        )
