"""The launchers of the page on scaling: real ones where they are installed."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mezzotint.recipe.recipe import read_recipe
from mezzotint.train.log import read_metrics
from tests import ROOT

EXAMPLES = ROOT / "examples"
TINY = [
    "image/emoji_simclr", "data={kind: embedded_images, name: digits}",
    "encoder={kind: resnet8, stem: small, width: 2}", "run.epochs=1", "run.batch_size=256",
    "run.log.knn_epochs=0", "run.log.every_steps=1", "run.compute.device=cpu",
    "method={kind: simclr, hidden_dim: 8, dim: 8}",
]  # fmt: skip


def installed(name: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(name) is not None
    return pytest.mark.skipif(not found, reason=f"{name} is not installed: pip install {name}")


def started(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, cwd=ROOT,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def trained_on(run: Path) -> int:
    """The processes of a finished run."""
    assert len(read_metrics(run / "metrics.jsonl")) == 7
    facts: dict[str, Any] = json.loads((run / "environment.json").read_text())
    return int(facts["processes"])


@pytest.mark.slow
@installed("accelerate")
def test_accelerate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    plain = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    verb = ["-m", "mezzotint", "pretrain", *TINY, "--train-only", "--quiet", "--out", str(out)]
    started([sys.executable, *launch, *plain, "--main_process_port=0", *verb])
    assert trained_on(out) == 2


@pytest.mark.slow
@installed("ray")
def test_ray_train(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe, *overrides = TINY
    example = str(EXAMPLES / "ray_train.py")
    started([sys.executable, example, recipe, str(out), *overrides], WORKERS="2")
    assert trained_on(out) == 2


def test_the_example_of_ray_compiles_and_trains_without_it(tmp_path: Path) -> None:
    """What each worker runs, on one process."""
    spec = importlib.util.spec_from_file_location("ray_train", EXAMPLES / "ray_train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {"recipe": TINY[0], "out": str(tmp_path / "run"), "overrides": TINY[1:]}
    module.train(config)
    assert trained_on(tmp_path / "run") == 1


def test_the_command_of_skypilot_is_read() -> None:
    task = yaml.safe_load((EXAMPLES / "sky.yaml").read_text(encoding="utf-8"))
    assert {"resources", "num_nodes", "setup", "run"} <= task.keys()
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[part]], check=True)
    words = shlex.split(task["run"].replace("\\\n", " "))
    verb = words[words.index("pretrain") + 1 :]
    recipe, overrides = verb[0], [word for word in verb[1:] if "=" in word]
    root = [word for word in overrides if word.startswith("data.root=")]
    assert read_recipe(recipe, overrides)["data"]["kind"] == "image_shards"
    assert root[0].partition("=")[2] in task["file_mounts"]
    assert "--resume auto" in task["run"] and verb[verb.index("--out") + 1].startswith("/runs")


def test_the_page_names_each_launcher_and_its_test() -> None:
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    for name in ("torchrun", "accelerate", "submitit", "Ray Train", "SkyPilot"):
        assert f"| {name} |" in page, name
    for path in re.findall(r"`((?:tests|examples|benchmarks)/[\w/]+\.\w+)", page):
        assert (ROOT / path).is_file(), path
