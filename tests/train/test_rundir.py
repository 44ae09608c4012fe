"""The directory of a run: who may use it, and what it records."""

import datetime
import json
import os
import shutil
import subprocess
import sys
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
    with locked(out), pytest.raises(RunDirectoryInUse, match=f"process {os.getpid()} on .* writes"):
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


@pytest.mark.parametrize("owner", ["1 here", "1 another-host", "4194305 here", "", "nonsense"])
def test_a_lock_that_nobody_holds_does_not_count_whatever_it_says(
    tmp_path: Path, owner: str
) -> None:
    """Process 1 is alive: a lock with a recycled number, or of another host, refuses no run."""
    (tmp_path / ".lock").write_text(owner)
    prepare(tmp_path, resume=False, overwrite=False)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
        with pytest.raises(RunDirectoryInUse, match="writes to"), locked(tmp_path):
            pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from mezzotint.train.rundir import locked\n"
        "with locked(Path(sys.argv[1])):\n print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        with pytest.raises(RunDirectoryInUse, match=f"process {process.pid} on"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        pass


def test_a_run_that_was_killed_before_its_first_checkpoint_can_be_started_again(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").write_text("1 here\n")
    prepare(out, resume=False, overwrite=False)
    (out / "recipe.yaml").write_text("method: {}")
    with pytest.raises(RunDirectoryInUse, match="start again with --overwrite"):
        prepare(out, resume=False, overwrite=False)
    with pytest.raises(RunDirectoryInUse, match="has none. Start it with --overwrite"):
        prepare(out, resume=True, overwrite=False)
    prepare(out, resume=False, overwrite=True)
    assert not list(out.iterdir())


def test_overwrite_spares_a_folder_that_only_has_a_recipe_and_files_of_the_user(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.yaml").write_text("mine: 1")
    with pytest.raises(RunDirectoryInUse, match="is not a run"):
        prepare(tmp_path, resume=False, overwrite=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "1-bridle").mkdir()
    for name in ("notes.txt", "thesis.tex", "my data", "z"):
        (tmp_path / name).write_text("years of work")
    before = files(tmp_path)
    with pytest.raises(
        RunDirectoryInUse, match="also has my data, notes.txt, thesis.tex and 1 more. Move them"
    ):
        prepare(tmp_path, resume=False, overwrite=True)
    assert files(tmp_path) == before


def test_overwrite_removes_links_and_not_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.bin").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").mkdir()
    (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
    prepare(run, resume=False, overwrite=True)
    assert not list(run.iterdir())
    assert (tmp_path / "elsewhere" / "data.bin").read_text() == "precious"


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("file", {}, "must be a new or empty directory, and .*run is a file"),
        ("thesis", {}, "and .*run has 'thesis.txt'"),
        ("thesis", {"overwrite": True}, "removes only runs, and .*run is not a run"),
        ("thesis", {"resume": True}, "needs a run with checkpoints, and .*run has none"),
        ("link", {}, "run is a link to .*gone, which does not exist. Choose another --out"),
    ],
)
def test_directories_that_cannot_be_used(
    tmp_path: Path, content: str, flags: dict[str, bool], message: str
) -> None:
    out = tmp_path / "run"
    if content == "file":
        out.write_text("")
    elif content == "link":
        out.symlink_to(tmp_path / "gone")
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


def test_workers_of_a_killed_process_do_not_hold_its_lock(tmp_path: Path) -> None:
    """A worker notices after some seconds that its parent is gone; the next start comes first."""
    reader, writer = os.pipe()
    killed = os.fork()
    if killed == 0:
        with locked(tmp_path):
            if os.fork() == 0:
                os.close(writer)
                os.read(reader, 1)  # a worker, until the test ends
            os._exit(0)  # without cleaning up
    os.waitpid(killed, 0)
    with locked(tmp_path):
        with pytest.raises(RunDirectoryInUse, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
        forked = os.fork()
        if forked == 0:
            os._exit(0)  # closes its copy, and must not unlock this process's
        os.waitpid(forked, 0)
        with pytest.raises(RunDirectoryInUse, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
    os.close(writer)
    os.close(reader)
