"""The soak in small, and that it finds planted faults: kills, flipped bits, damaged files."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mezzotint.train import checkpoint
from tests.faults import flips, fuzz, isolated, kills, soak, victims


def in_time() -> bool:
    return True


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("soak")
    checkpoint.CheckpointStore(root / "run/checkpoints").save(
        3, fuzz.example_tensors(), fuzz.example_tensors(), {"seconds": 1.0}
    )
    files, packed, _ = fuzz.encoder_files(sealed=True)
    for folder, content in (("run/encoder", files), ("run/exports/packed-W4A32", packed)):
        (root / folder).mkdir(parents=True)
        for name, data in content.items():
            (root / folder / name).write_bytes(data)
    return root


def test_flipped_bits_of_a_run_are_found_or_harmless(run: Path, tmp_path: Path) -> None:
    flip = flips.Flips(run, tmp_path / "copy", 0)
    assert len(flip.files) == 10
    found = [flip(number) for number in range(150)]
    assert {one["outcome"] for one in found} <= {"found", "harmless"}, found
    assert sum(one["outcome"] == "found" for one in found) > 100


def test_a_flip_that_nobody_notices_is_called_silent(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "verify", lambda folder: {})
    flip = flips.Flips(run, tmp_path / "copy", 0)
    numbers = [n for n in range(400) if flip.files[n % len(flip.files)].name == "model.safetensors"]
    assert "silent" in {flip(number)["outcome"] for number in numbers}


# Libraries leave damaged files open until they are collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_files_are_read_or_refused_in_words(tmp_path: Path) -> None:
    every = fuzz.readers()
    assert len(every) > 40
    for number in range(3 * len(every)):
        result = fuzz.try_file(every, tmp_path / "file", 1, number)
        assert result["outcome"] in ("read", "refused"), (number, result)


def test_each_reader_reads_its_good_file(tmp_path: Path) -> None:
    for position, reader in enumerate(fuzz.readers()):
        folder = tmp_path / str(position)
        folder.mkdir()
        assert fuzz.good_value(reader, folder) is not None, reader.name


def test_wrong_errors_crashes_time_and_memory_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "CPU_SECONDS", 0.2)
    monkeypatch.setattr(isolated, "MEGABYTES", 50)

    def one(number: int) -> dict[str, Any]:
        if number == 1:
            raise KeyError("a")
        if number == 2:
            raise ValueError("`a` must be b, got c.")
        if number == 3:
            os.abort()
        if number == 4:
            sum(range(30_000_000))
        if number == 5:
            return {"outcome": "read", "said": str(len(bytearray(100_000_000)))}
        return {"outcome": "read"}

    isolated.run_isolated(one, range(7), tmp_path / "found.jsonl", in_time)
    found = [line["outcome"] for line in lines_of(tmp_path / "found.jsonl")]
    assert found == ["read", "wrong kind", "refused", "crash", "time", "memory", "read"]


def test_a_soak_goes_on_where_it_was_and_sums_up(tmp_path: Path) -> None:
    soak.soak_files(tmp_path, 4, 7, in_time=in_time)
    soak.soak_files(tmp_path, 9, 7, in_time=in_time)
    assert [line["number"] for line in lines_of(tmp_path / "files-7.jsonl")] == list(range(9))
    facts = soak.summary(tmp_path, 7)
    assert sum(facts["files"]["all"].values()) == 9 and not facts["faults"]


@pytest.mark.slow
def test_a_kill_is_survived_and_a_lost_result_is_noticed(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    kills.make_photos(inputs)
    job = next(job for job in kills.jobs() if job.name == "pretrain, workers")
    with victims.Stem() as stem:
        killer = kills.Killer(inputs, stem)
        golden = killer.golden(job)
        outcome = killer.run_chain(job, golden, 3, 3)
        assert 1 <= len(outcome.kills) <= 3  # it may be done before the last
        assert not outcome.lost + outcome.stuck + outcome.orphans
        assert killer.run_chain(job, replace(golden, result="another"), 4, 0).lost


@pytest.mark.slow
def test_forked_and_new_victims_are_alike_and_die_alike(tmp_path: Path) -> None:
    command = ["recipes", "image/folder_simclr"]
    said = []
    with victims.Stem() as stem:
        for begin in (stem.start, victims.start):
            victim = begin(command, tmp_path, "one")
            assert victim.wait(60) == 0
            said.append((tmp_path / "log").read_text(encoding="utf-8"))
            assert begin(["recipes", "no/such"], tmp_path, "two").wait(60) == 2
            victim = begin(command, tmp_path, "three")
            victim.kill(group=True)
            assert victim.wait(60) == -9
            assert not kills.alive({"three"}, {victim.pid})
    assert said[0] == said[1] and "folder_simclr" in said[0]


@pytest.mark.soak
def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    soak.soak_files(tmp_path, 500, 0, in_time=in_time)
    soak.soak_flips(tmp_path, 300, 0, in_time=in_time)
    soak.soak_kills(tmp_path, 24, 0, in_time=in_time)
    assert not soak.summary(tmp_path, 0)["faults"]
