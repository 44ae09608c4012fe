"""Encoders from any directory or file, with their data; networks and sources of one's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mezzotint import Recipe, evaluate, load_encoder, pretrain, save_encoder
from mezzotint.augment.image.views import TwoViews
from mezzotint.data.audio.embedded import Speech
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.table.table import Table
from mezzotint.encoders.audio_ntt import AudioNTT
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet10
from mezzotint.encoders.rows import TableMLP
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.export import export
from mezzotint.methods.simclr import SimCLR
from mezzotint.optim.optimizer import AdamW
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.recipe.recipe import read_recipe, resolve_recipe
from mezzotint.report.page import write_report
from mezzotint.runs.compare import arms_of
from mezzotint.runs.finetune import plan, variant_recipe
from mezzotint.runs.subject import encoder_at, own_sections, run_of, subject
from mezzotint.train.settings import Run
from mezzotint.types import Input, Sample
from tests.test_contract_sources import EXAMPLES, build

QUICK = ["evaluate.probes=[knn]", "evaluate.seeds=1"]


def photos(root: Path, count: int = 6) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((20, 20, 3), 40 + 150 * number + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """An encoder's directory without a run, as `mezzotint import` writes it."""
    encoder = resnet10(Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3), stem="small", width=4)
    return save_encoder(encoder, tmp_path / "imported", {"imported_from": "weights.pth"})


def test_an_imported_encoder_is_evaluated_on_named_data(imported: Path, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    by_path = evaluate(imported, QUICK, data=str(root)).rows
    assert {row.metric for row in by_path} >= {"label/holdout/top1"}
    by_key = ["data.kind=image_folder", f"data.root={root}", "data.size=16"]
    again = evaluate(imported, [*QUICK, *by_key]).rows
    assert [row for row in again if row.probe == "knn"] == [r for r in by_path if r.probe == "knn"]
    assert len(read_evaluation(imported)) == len(again) and read_baselines(imported).untrained
    with pytest.raises(ValueError, match=r"'views.flip=0.5' cannot be set for an encoder that is"):
        subject(imported, str(root), ["views.flip=0.5"])
    with pytest.raises(ValueError, match="Data is missing: the encoder was saved without its data"):
        subject(imported)


def test_a_named_audio_task_takes_an_imported_encoder(tmp_path: Path) -> None:
    """The clips of the task have another length than the encoder's input."""
    keys = EXAMPLES["audio_benchmark"](tmp_path, 4)
    encoder = AudioNTT(Input((1, 64, 96), (-7.0,), (4.0,), "audio"), width=4, dim=32)
    save_encoder(encoder, tmp_path / "encoder")
    named = ["data.kind=audio_benchmark", "data.name=esc50", f"data.root={keys['root']}"]
    rows = evaluate(tmp_path / "encoder", [*QUICK, *named, "data.seconds=0.3"]).rows
    assert {row.metric for row in rows} >= {"label/fold-1/top1", "label/fold-2/top1"}


def config(root: str) -> dict[str, Any]:
    return resolve_recipe(
        {
            "data": {"kind": "image_folder", "root": root, "size": 16},
            "encoder": {"kind": "resnet10", "stem": "small", "width": 4},
            "method": {"kind": "simclr", "hidden_dim": 8, "dim": 8},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            "run": {"epochs": 1, "batch_size": 4},
            "schedule": {"kind": "cosine", "warmup_epochs": 0},
        }
    )


def test_a_relative_root_holds_in_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "home" / "photos")
    monkeypatch.chdir(tmp_path / "home")
    run = pretrain(Recipe.build(config("photos")), "run", progress="quiet").resolve()
    assert read_recipe(run)["data"]["root"] == "photos"
    # Another folder of that name is not the run's.
    photos(tmp_path / "other" / "photos", count=3)
    monkeypatch.chdir(tmp_path / "other")
    assert read_recipe(run)["data"]["root"] == str(tmp_path / "home" / "photos")
    assert len(subject(run).data) == 12 and run_of(run / "encoder") == run
    assert len(subject(run / "encoder").data) == 12
    # The encoder alone keeps the settings, and no path of this machine.
    shutil.copytree(run / "encoder", tmp_path / "alone")
    stored = json.loads((tmp_path / "alone" / "encoder.json").read_text())["preprocessing"]
    assert stored["source"]["root"] == "photos" and stored["crop_fraction"] == 0.875
    assert subject(tmp_path / "alone", "photos").data.input.shape == (3, 16, 16)


class Mean(Encoder):
    """A network of one's own: the mean color, then a layer."""

    def __init__(self, input: Input, *, width: int = 6) -> None:
        super().__init__(input, width)
        self.layer = nn.Linear(input.shape[0], width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.mean(dim=(2, 3)))
        return out


class Halves(EmbeddedImages):
    """A source of one's own: every second digit."""

    def __init__(self) -> None:
        super().__init__(name="digits")

    def read(self, index: int) -> Sample:
        return super().read(index)


def test_a_network_and_a_source_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Halves()
    recipe = Recipe(
        data=source,
        method=SimCLR(Mean(source.input), dim=4, hidden_dim=8),
        optimizer=AdamW(lr=1e-3),
        run=Run(epochs=1, batch_size=512),
    )
    run = pretrain(recipe, tmp_path / "run")
    said = capsys.readouterr().err
    assert "encoder: `Mean` is a class of your own" in said and "load_encoder(run, model=" in said
    assert "data: `Halves` is a class of your own" in said and "evaluate(run, data=" in said
    with pytest.raises(ValueError, match=r"A class of your own is made again in Python: load_enc"):
        load_encoder(run)
    torch.manual_seed(7)
    loaded = load_encoder(run, model=Mean(source.input))
    assert torch.equal(
        loaded.get_parameter("layer.weight"), recipe.encoder.get_parameter("layer.weight")
    )
    with pytest.raises(ValueError, match="does not fit its encoder.json"):
        load_encoder(run, model=Mean(source.input, width=5))
    rows = evaluate(run, QUICK, data=Halves(), model=Mean(source.input)).rows
    assert any(row.probe == "knn" and row.value > 0.1 for row in rows)
    assert evaluate(run, QUICK, data="digits", model=Mean(source.input)).rows


class Attract(SimCLR):
    """A method of one's own."""


class OwnViews(TwoViews):
    """Views of one's own."""


@pytest.mark.parametrize("views", [TwoViews(), OwnViews()])
def test_a_method_of_ones_own_needs_no_class_to_be_measured(
    tmp_path: Path, views: TwoViews
) -> None:
    runs = []
    for seed in range(2):
        data = EmbeddedImages(name="digits")
        recipe = Recipe(
            data=data,
            views=views,
            method=Attract(resnet10(data.input, stem="small", width=4), dim=4, hidden_dim=8),
            optimizer=AdamW(lr=1e-3),
            run=Run(epochs=1, batch_size=512, seed=seed),
        )
        runs.append(pretrain(recipe, tmp_path / f"run-{seed}", progress="quiet"))
        assert evaluate(runs[-1], QUICK).rows
    assert own_sections(runs[0]) == (["method"] if type(views) is TwoViews else ["views", "method"])
    page = write_report(runs[0]).read_text(encoding="utf-8")
    assert '<section id="map"' in page and "There are no pictures" not in page
    assert ('<section id="gallery"' in page) == (type(views) is TwoViews)
    assert list(arms_of(runs)) == ["run-0"], "runs that differ in their seed are one arm"
    with pytest.raises(ValueError, match="must be online and backbone for `.*a class of your own"):
        evaluate(runs[0], [*QUICK, "evaluate.part=projector"])
    with pytest.raises(ValueError, match="`evaluate.seeds` must be"):
        evaluate(runs[0], ["evaluate.seeds=many"])


def test_data_of_ones_own_are_named_in_the_refusal(tmp_path: Path) -> None:
    source = Halves()
    recipe = Recipe(
        data=source,
        method=SimCLR(resnet10(source.input, stem="small", width=4), dim=4, hidden_dim=8),
        optimizer=AdamW(lr=1e-3),
        run=Run(epochs=1, batch_size=512),
    )
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    with pytest.raises(ValueError, match="data of `.*` are a class of your own.*data=…"):
        evaluate(run, QUICK)
    assert evaluate(run, QUICK, data=source).rows and evaluate(run, QUICK, data="digits").rows
    assert "the encoder cannot be opened: they are a class of your own" in write_report(
        run
    ).read_text(encoding="utf-8")


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no encoder.json"):
        encoder_at(tmp_path)
    with pytest.raises(ValueError, match="is not a file. It must be an ONNX file"):
        encoder_at(tmp_path / "a.onnx")
    source = ImageFolder(root=str(photos(tmp_path / "photos")), size=24)
    save_encoder(resnet10(source.input, stem="small", width=4), tmp_path / "e", source=source)
    with pytest.raises(ValueError, match=r"has images of shape \(1, 8, 8\), but the encoder takes"):
        subject(tmp_path / "e", "digits")


def people(path: Path, count: int = 24, *, taller: int = 0) -> Path:
    rows = [f"{150 + taller + 3 * i},{'ab'[i % 2]},{'xy'[i // 2 % 2]}" for i in range(count)]
    path.write_text("\n".join(["height,color,kind", *rows]))
    return path


@pytest.fixture
def of_table(tmp_path: Path) -> Path:
    source = Table(path=str(people(tmp_path / "people.csv")), y="kind")
    torch.manual_seed(0)
    return save_encoder(TableMLP(source.input, width=8), tmp_path / "encoder", source=source)


def test_fine_tuning_encodes_another_table_as_in_training(of_table: Path, tmp_path: Path) -> None:
    other = people(tmp_path / "other.csv", taller=40)
    what = plan(of_table, str(other), ["data.holdout=0.5", "data.fraction=0.5", "run.epochs=1"])
    section = what.config["data"]["source"]
    assert section["fitted"] == str(of_table.resolve()) and section["holdout"] == 0.5
    assert section["y"] == "kind" and what.config["data"]["fraction"] == 0.5
    data = variant_recipe(what, 0, "finetuned").data
    own = Table(path=str(other), y="kind", fitted=str(of_table))
    everything = data.evaluation()[0]
    assert abs(float(everything.read(0)["x"][0])) < 20.0
    heights = {float(own.evaluation()[0].read(i)["x"][0]) for i in range(24)}
    assert {float(everything.read(i)["x"][0]) for i in range(24)} == heights and min(heights) > -0.7
    with pytest.raises(ValueError, match="lacks the columns 'height'"):
        (tmp_path / "bad.csv").write_text("color,kind\na,x\nb,y\na,y\nb,x\n")
        plan(of_table, str(tmp_path / "bad.csv"))


@pytest.mark.parametrize("bits", [FP32, Bits(8, 8)])
def test_an_exported_file_reads_data_as_its_encoder(
    of_table: Path, tmp_path: Path, bits: Bits
) -> None:
    pytest.importorskip("onnxscript")
    other = str(people(tmp_path / "other.csv", 12, taller=40))
    folder = export(of_table, "onnx", bits, data=str(tmp_path / "people.csv"))
    served, trained = encoder_at(folder / "encoder.onnx"), load_encoder(of_table)
    assert served.preprocessing["columns"] == trained.preprocessing["columns"]
    found = subject(folder / "encoder.onnx", other, ["data.holdout=0.5"])
    expected = subject(of_table, other, ["data.holdout=0.5"])
    samples, same = found.data.evaluation()[0], expected.data.evaluation()[0]
    assert all(torch.equal(samples.read(i)["x"], same.read(i)["x"]) for i in range(12))
    close = 1e-4 if bits.is_float else 0.2
    torch.testing.assert_close(
        extract(served, samples), extract(trained, same), atol=close, rtol=close
    )
    rows = evaluate(folder / "encoder.onnx", [*QUICK, "evaluate.baselines=false"], data=other).rows
    assert any(row.probe == "knn" for row in rows)
    assert (folder / "encoder.evaluation" / "evaluation.json").is_file()


def test_audio_is_read_by_the_front_end_of_training(tmp_path: Path) -> None:
    folder = build("audio_folder", {**EXAMPLES["audio_folder"](tmp_path, 4), "seconds": 0.3})
    keys = EXAMPLES["audio_benchmark"](tmp_path / "esc", 4)
    named = ["data.kind=audio_benchmark", "data.name=esc50", f"data.root={keys['root']}"]
    encoder = AudioNTT(folder.input, width=2, dim=16)
    save_encoder(encoder, tmp_path / "encoder", source=folder)
    data = subject(tmp_path / "encoder", None, named).data
    assert data.preprocessing()["front_end"] == folder.preprocessing()["front_end"]
    assert data.input.shape[2] == 501  # the five seconds of the task, not those of training
    speech = Speech()
    save_encoder(AudioNTT(speech.input, width=2, dim=16), tmp_path / "spoken", source=speech)
    with pytest.raises(ValueError, match="another front-end .*sample_rate 16000 instead of 8000"):
        subject(tmp_path / "spoken", str(tmp_path / "a"))
    assert subject(tmp_path / "spoken", str(tmp_path / "a"), ["data.front_end=byol_a"]).data
