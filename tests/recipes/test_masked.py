"""Every shipped recipe of masked prediction runs through all its phases on small data."""

from pathlib import Path
from typing import Any

import pytest

from mezzotint.data.audio.embedded import Speech
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.recipe.reading import read_raw, shipped
from mezzotint.recipe.recipe import Plan
from mezzotint.train.log import read_metrics
from mezzotint.train.plan import pretrain_plan
from tests.tiny import is_masked

SMALL = {
    "image": {
        "data": {"kind": "embedded_images", "name": "digits"},
        "encoder": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 2},
    },
    "audio": {
        "data": {"kind": "speech"},
        "encoder": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 16},
    },
}
NAMES = [name for name in shipped() if is_masked(name)]


FEW = 64
"""Samples of a run: two batches, so that a phase has two steps."""


def shrunk(method: dict[str, Any]) -> None:
    """A method of published size made small; what kind its parts are stays."""
    book = method.get("codebook")
    if book is not None:
        book |= {key: 8 for key in ("num_codes", "dim", "code_dim") if key in book}
        if method.get("tokenizer") == {"kind": "cold_start", "project": False}:
            method["tokenizer"] = "cold_start"
    if "decoder" in method:
        method["decoder"] |= {"width": 16, "depth": 2, "heads": 2}
        method["decoder"] |= {"window": 2} if method["decoder"].get("window") else {}
        method["decoder"] |= {"shift": [0, 1]} if method["decoder"].get("shift") else {}


@pytest.mark.parametrize("name", NAMES)
def test_all_phases_are_whole(name: str) -> None:
    plan = Plan.of(read_raw(name))
    for phase in plan.phases[1:]:
        kind = phase.config["method"]["kind"]
        needed = {"encoder"} if kind == "bridle_tokenizer" else {"tokenizer", "codebook"}
        assert needed <= phase.load.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name.partition("/")[0] in SMALL])
def test_all_phases_run_small(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (EmbeddedImages, Speech):
        monkeypatch.setattr(source, "__len__", lambda self: FEW)
    raw = read_raw(name)
    raw |= SMALL[name.partition("/")[0]]
    raw.pop("init", None)  # its path is the user's
    raw["views"] = {"kind": "transformed", "transforms": [], "count": 1}
    for place in (raw, *raw.get("phases", [])):
        shrunk(place.get("method", {}))
        place["run"] = {"epochs": 1}
        place.get("schedule", {}).pop("warmup_epochs", None)
    raw["run"] = {"epochs": 1, "batch_size": FEW // 2, "log": {"every_steps": 1, "knn_epochs": 0}}
    for phase in raw.get("phases", []):
        phase.pop("run")
    raw.setdefault("phases", [{"name": "only"}])
    out = pretrain_plan(Plan.of(raw), tmp_path / "run", progress="quiet")
    for place in sorted(out.glob("[0-9]-*")):
        losses = [line["loss"] for line in read_metrics(place / "metrics.jsonl")]
        assert len(losses) >= 2 and None not in losses
