"""Where the time of a step went, the lines of a run's log, its trackers, and the terminal."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.log import Meter, Progress, RunLog, checked_line, read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.types import Batch
from tests.tiny import config


def lines_of(recipe: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    return read_metrics(
        pretrain(Recipe.build(resolve_recipe(recipe)), out, progress="quiet") / "metrics.jsonl"
    )


def parts(line: dict[str, Any]) -> dict[str, float]:
    return {
        key.removeprefix("time/"): value for key, value in line.items() if key.startswith("time/")
    }


def test_a_measured_step_names_its_parts_and_they_add_up(tmp_path: Path) -> None:
    recipe = config()
    recipe["views"]["policy"] = {"kind": "rand_augment", "names": ["equalize", "rotate"]}
    lines = lines_of(recipe, tmp_path / "run")
    assert not parts(lines[0]) and not parts(lines[2]), "only the second step is measured"
    found = parts(lines[1])
    assert set(found) == {
        "rest", "views", "draw", "crop", "flip", "policy", "affine", "equalize",
        "randomized_quantization", "normalize", "forward", "encoder", "backward", "optimizer",
    }  # fmt: skip
    assert min(found.values()) > 0.0
    step = recipe["run"]["batch_size"] / lines[1]["images_per_second"]  # a line a step
    assert 0.5 * step < sum(found.values()) <= step
    views = sum(
        found[name] for name in ("views", "draw", "crop", "flip", "policy", "affine", "equalize")
    )
    assert views <= lines[1]["augment_share"] * step


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_did_stands_beside_the_step(tmp_path: Path, workers: int) -> None:
    (tmp_path / "images").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    recipe = config(batch_size=2, loader={"workers": workers})
    recipe["data"] = {"kind": "image_folder", "root": str(tmp_path / "images"), "size": 16}
    found = parts(lines_of(recipe, tmp_path / "run")[1])
    loader = {name.removeprefix("loader/") for name in found if name.startswith("loader/")}
    assert loader == {"read", "draw", "decode", "crop"}
    assert all(value > 0.0 for value in found.values())


def test_other_steps_neither_wait_for_a_device_nor_hook_the_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waits.append)
    encoder, meter = torch.nn.Linear(2, 2), Meter()
    batch, device = (
        Batch((torch.zeros(1, 2),), torch.zeros(1, dtype=torch.int64)),
        torch.device("cuda"),
    )
    with meter.measured(0, batch, encoder, device):
        encoder(batch.x[0])
        assert not encoder._forward_hooks and not encoder._forward_pre_hooks
    assert not waits and not meter.parts
    with meter.measured(1, batch, encoder, device):
        encoder(batch.x[0])
    assert len(waits) == 4 and set(meter.parts) == {"time/rest", "time/encoder"}
    assert not encoder._forward_hooks and not encoder._forward_pre_hooks


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = {"every_steps": 2, "knn_epochs": 0, "trackers": ["tensorboard"]}
    out = pretrain(Recipe.build(config("simclr", log=log)), tmp_path / "run", progress="quiet")
    found = events.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    values = {event.step: event.value for event in found.Scalars("loss")}
    assert values == pytest.approx(
        {line["step"]: line["loss"] for line in read_metrics(out / "metrics.jsonl")}
    )


def test_a_tracker_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    made = Recipe.build(
        config("simclr", log={"every_steps": 2, "knn_epochs": 0, "trackers": ["mlflow"]})
    )
    with pytest.raises(
        ValueError, match="needs mlflow, which is not installed. Install it with pip install mlflow"
    ):
        pretrain(made, tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run").exists(), "the same command must work once it is installed"


def test_lines_are_json_with_null_for_nan_and_a_resumed_run_drops_later_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, {}, (), 0, Progress(4, 0, "json"))
    log.line(1, {"loss": 2.5, "grad_norm": math.nan})
    log.line(2, {"loss": math.inf})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 1, "loss": 2.5, "grad_norm": None, "crc32": "7d406107"},
        {"step": 2, "loss": None, "crc32": "8c0015c8"},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 2.5, "grad_norm": None},
        {"step": 2, "loss": None},
    ]
    assert json.loads(capsys.readouterr().out.splitlines()[0])["step"] == 1
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo', encoding="utf-8")
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    RunLog(tmp_path, {}, (), 1, Progress(4, 1, "quiet")).close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    assert read_metrics(tmp_path / "nothing.jsonl") == []


def test_progress_without_a_terminal_is_a_line_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar = Progress(2, 0)
    bar.note("resumed at step 0")
    for step in (1, 2):
        bar.show(step, {"epoch": 1.0, "loss": 0.25, "images_per_second": 8.0, "knn/digit": 0.5})
    bar.close()
    note, line = capsys.readouterr().err.splitlines()
    assert note == "resumed at step 0"
    assert line.startswith("step 2/2  epoch 1  loss 0.2500  8 samples/s")
    assert line.endswith("online kNN (training samples) 0.500  0 s left")
    bar.show(2, {"loss": 0.25, "knn/digit": 0.5, "knn/parity": 0.75})
    assert "online kNN (training samples) digit 0.500, parity 0.750" in capsys.readouterr().err


def test_damaged_lines_of_the_log_are_left_out(tmp_path: Path) -> None:
    good = '{"step": 1, "loss": 2.0}'
    lines = [good, "[1]", '{"loss": 1}', '{"step": "2"}', "{", "", good.replace("1,", "3,")]
    content = "\n".join(lines).encode() + b"\n\xff\xfe\x00\n" + b'{"step": 4, "lo'
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]


def test_a_flipped_bit_never_changes_a_value(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.25},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 0.5},
    ]
    whole = "".join(map(checked_line, good)).encode()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        lines = read_metrics(path)
        assert lines and all(line in good for line in lines), (position, lines)
