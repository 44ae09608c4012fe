"""`mezzotint finetune` and `detectron2` from the command line: options reach the plan."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.cli.app import run
from mezzotint.encoders.resnet import resnet18, resnet50
from mezzotint.encoders.saving import save_encoder
from mezzotint.types import Input

DIGITS = Input((1, 8, 8), (0.5,), (0.5,))
QUICK = ["run.epochs=1", "run.log.knn_epochs=0", "data.source.kind=embedded_images"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cli") / "encoder"
    save_encoder(resnet18(DIGITS, width=2, stem="small"), folder)
    return folder


def test_finetune_writes_rows_baselines_and_a_report(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["finetune", str(encoder), "digits", "run.epochs=1", "--fraction", "0.1"]
    assert run([*arguments, "--out", str(out), "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(done["report"]) == out / "report.html"
    probes = {row["probe"] for row in done["rows"]}
    assert probes == {"finetune", "finetune_scratch", "majority"}
    assert {p.name for p in out.iterdir() if p.is_dir()} >= {"finetuned-0"}
    assert run([*arguments, "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_options_become_keys_of_the_recipe(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []

    def stop(prepared: Any, *_: Any, **__: Any) -> None:
        plans.append(prepared)
        raise ValueError("planned")

    monkeypatch.setattr("mezzotint.runs.finetune.finetune", stop)
    (tmp_path / "list.txt").write_text("0\n1\n2\n")
    options = ["--per-class", "2", "--bits", "W4A8", "--seeds", "3", "--warm-head"]
    assert run(["finetune", str(encoder), "digits", *options, "--no-baselines"]) == 2
    [made] = plans
    assert made.config["data"]["per_class"] == 2 and made.seeds == 3
    assert made.warm_head and not made.baselines
    assert "4" in str(made.config["method"]["bits"]) and "8" in str(made.config["method"]["bits"])


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], {"fraction": 0.1, "per_class": None}),
        (["--per-class", "3"], {"fraction": 1.0, "per_class": 3}),
        (["--per-class", "3", "data.per_class=5"], {"fraction": 1.0, "per_class": 5}),
    ],
)
def test_labels_of_an_option_replace_those_of_the_recipe(
    options: list[str], chosen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`supervised/emoji_finetune` takes a tenth of the labels."""
    plans: list[Any] = []

    def stop(prepared: Any, *_: Any, **__: Any) -> None:
        plans.append(prepared)
        raise ValueError("planned")

    monkeypatch.setattr("mezzotint.runs.finetune.finetune", stop)
    save_encoder(resnet18(Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3), width=2), tmp_path / "e")
    assert run(["finetune", str(tmp_path / "e"), "supervised/emoji_finetune", *options]) == 2
    assert {key: plans[0].config["data"][key] for key in chosen} == chosen


def test_detectron2_gets_a_pickle_and_its_settings(tmp_path: Path) -> None:
    save_encoder(
        resnet50(Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3), width=4), tmp_path / "encoder"
    )
    out = tmp_path / "out.pkl"
    assert run(["detectron2", str(tmp_path / "encoder"), str(out)]) == 0
    with out.open("rb") as file:
        assert "model" in pickle.load(file)
    assert len(list(tmp_path.glob("out*"))) == 2
