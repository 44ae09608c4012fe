"""The directory of a run: who may use it, and what it records."""

import datetime
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mezzotint.recipe.recipe import Recipe
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import (
    RunDirectoryInUse,
    default_directory,
    environment,
    locked,
    prepare,
    refuse_if_too_small,
)
from tests.tiny import config


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = pretrain(Recipe.build(config()), tmp_path / "run", progress="quiet")
    before = files(out)
    with pytest.raises(
        RunDirectoryInUse, match="Continue with --resume, start again with --overwrite"
    ):
        pretrain(Recipe.build(config()), out, progress="quiet")
    assert files(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryInUse, match="is not a run. Choose another"):
        pretrain(Recipe.build(config()), tmp_path / "mine", overwrite=True, progress="quiet")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (out / ".lock").write_text(f"{os.getppid()} {os.uname().nodename}")
    with pytest.raises(RunDirectoryInUse, match="writes to"):
        pretrain(Recipe.build(config()), out, resume=True, progress="quiet")


def test_a_disk_too_small_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10_000})())
    with pytest.raises(
        OSError, match="0 MB are free at .*, and 2 checkpoints and a temporary one need"
    ):
        pretrain(Recipe.build(config()), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_default_directories_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"emoji_simclr-{datetime.date.today():%Y%m%d}"
    for expected in (name, f"{name}-2", f"{name}-3"):
        folder = default_directory("image/emoji_simclr")
        assert folder == Path("runs") / expected
        folder.mkdir(parents=True)


def test_a_lock_is_removed_and_that_of_a_dead_process_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"{2**22 + 1} {os.uname().nodename}")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("file", {}, "must be a new or empty directory, and .*run is a file"),
        ("thesis", {}, "and .*run has 'thesis.txt'"),
        ("thesis", {"overwrite": True}, "removes only runs, and .*run is not a run"),
        ("thesis", {"resume": True}, "needs a run with checkpoints, and .*run has none"),
    ],
)
def test_directories_that_cannot_be_used(
    tmp_path: Path, content: str, flags: dict[str, bool], message: str
) -> None:
    out = tmp_path / "run"
    if content == "file":
        out.write_text("")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(RunDirectoryInUse, match=message):
        prepare(out, **{"resume": False, "overwrite": False, **flags})
    assert files(tmp_path) == before


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    prepare(tmp_path / "run", resume=False, overwrite=True)
    assert not list((tmp_path / "run").iterdir()) and (tmp_path / "other").is_dir()


def test_space_is_needed_for_all_checkpoints_and_a_temporary_one(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    refuse_if_too_small(tmp_path, free // 8, 2)
    with pytest.raises(OSError, match="Free some space"):
        refuse_if_too_small(tmp_path, free // 2, 2)


def test_the_environment_names_versions_and_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "canary-7391")
    facts = environment("cpu")
    assert facts["torch"] == torch.__version__ and facts["device"] == "cpu"
    assert "canary" not in json.dumps(facts)
