import json
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezzotint.files import flush
from mezzotint.train import checkpoint
from mezzotint.train.checkpoint import CheckpointCorrupt, CheckpointStore, load, verify

MODEL = {"weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7)}
MOMENTS = {"weight/exp_avg": torch.full((3, 4), 0.5)}


def saved(root: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(root)
    for step in steps:
        store.save(step, {**MODEL, "count": torch.tensor(step)}, MOMENTS, {"seconds": 1.5})
    return store


def test_round_trip(tmp_path: Path) -> None:
    found, problems = saved(tmp_path, 3).latest()
    assert found is not None and not problems
    assert found.step == 3 and found.state == {"seconds": 1.5}
    assert torch.equal(found.model["weight"], MODEL["weight"])
    assert torch.equal(found.optimizer["weight/exp_avg"], MOMENTS["weight/exp_avg"])


def test_only_the_newest_stay(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2, 3, 4)
    assert [p.name for p in store.found()] == ["step-00000003", "step-00000004"]


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found_and_the_one_before_is_taken(
    tmp_path: Path, data: st.DataObject
) -> None:
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    store = saved(tmp_path / "c", 1, 2)
    newest = store.found()[-1]
    path = data.draw(
        st.sampled_from(sorted(p for p in newest.iterdir() if p.name != "manifest.json"))
    )
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=path.name):
        load(newest)
    found, problems = store.latest()
    assert found is not None and found.step == 1 and len(problems) == 1


@pytest.mark.parametrize("length", [0, 1, 100, "half", "last"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_truncated_file_is_found(tmp_path: Path, name: str, length: int | str) -> None:
    store = saved(tmp_path, 1, 2)
    path = store.found()[-1] / name
    content = path.read_bytes()
    size = {"half": len(content) // 2, "last": len(content) - 1}.get(str(length), length)
    path.write_bytes(content[: int(size)])
    if path.read_bytes() == content:
        pytest.skip("the file is not longer")
    found, problems = store.latest()
    assert found is not None and found.step == 1 and len(problems) == 1


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "no manifest"])
def test_missing_and_extra_files_are_found(tmp_path: Path, change: str) -> None:
    store = saved(tmp_path, 1, 2)
    newest = store.found()[-1]
    if change == "missing":
        (newest / "optimizer.safetensors").unlink()
    elif change == "extra":
        (newest / "notes.txt").write_text("hello")
    elif change == "renamed":
        newest = newest.rename(newest.with_name("step-00000009"))
    else:
        (newest / "manifest.json").unlink()
    with pytest.raises(CheckpointCorrupt):
        load(newest)
    found, _ = store.latest()
    assert found is not None and found.step == 1


def test_stale_pointers_and_foreign_directories_are_no_checkpoints(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    (tmp_path / "latest").symlink_to("nowhere")
    (tmp_path / "99").mkdir()
    (tmp_path / "step-00000007").mkdir()
    found, problems = store.latest()
    assert found is not None and found.step == 1 and len(problems) == 1


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    dead, alive = (
        tmp_path / ".step-00000002.tmp-999999",
        tmp_path / f".step-00000002.tmp-{os.getpid()}",
    )
    dead.mkdir()
    alive.mkdir()
    assert store.sweep() == [dead]
    assert alive.exists() and not dead.exists()


def test_the_temporary_directory_is_a_sibling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Path]] = []
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(source), Path(target)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    saved(tmp_path, 1)
    assert [(a.parent, b.parent) for a, b in seen] == [(tmp_path, tmp_path)]


def test_a_failing_removal_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1, 2)

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(shutil, "rmtree", busy)
    with pytest.warns(UserWarning, match="could not be removed"):
        store.save(3, MODEL, MOMENTS, {})
    assert verify(store.found()[-1])


def test_a_full_disk_says_so_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1)
    monkeypatch.setenv("MEZZOTINT_FAULT", "checkpoint.after_model:step=2:enospc")
    with pytest.raises(
        OSError,
        match=r"A checkpoint could not be saved in `.*` \(No space left on device\): it needs "
        ".* MB, and .* MB are free. `step-00000001` is kept. Free some space",
    ):
        store.save(2, MODEL, MOMENTS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    found, _ = store.latest()
    assert found is not None and found.step == 1


def test_a_full_disk_claims_no_checkpoint_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    monkeypatch.setenv("MEZZOTINT_FAULT", "checkpoint.after_model:step=1:enospc")
    with pytest.raises(OSError, match="There is no earlier checkpoint. Free some space"):
        store.save(1, MODEL, MOMENTS, {})
    monkeypatch.delenv("MEZZOTINT_FAULT")
    damaged = saved(tmp_path / "other", 1)
    (damaged.found()[0] / "state.json").write_text("{}")
    monkeypatch.setenv("MEZZOTINT_FAULT", "checkpoint.after_model:step=2:enospc")
    with pytest.raises(OSError, match="There is no earlier checkpoint"):
        damaged.save(2, MODEL, MOMENTS, {})
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="could not be saved in `.*/file/checkpoints` .Not a dir"):
        CheckpointStore(tmp_path / "file" / "checkpoints").save(1, MODEL, MOMENTS, {})


@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_what_the_disk_changed_is_noticed_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    store, append = saved(tmp_path, 1), checkpoint._append

    def wrong(file: BinaryIO, piece: memoryview) -> None:
        data = bytearray(piece)
        if Path(file.name).name == name and damage in ("flipped", "short"):
            data[-1] ^= damage == "flipped"
            data = data[:-1] if damage == "short" else data
        append(file, memoryview(data))
        # What is too much is noticed at the end alone, so only the last piece can have it.
        if Path(file.name).name == name and damage == "long":
            with open(file.name, "ab") as other:
                other.write(b"0")

    monkeypatch.setattr(checkpoint, "_append", wrong)
    with pytest.raises(OSError, match=rf"`{name}` is .*`step-00000001` is kept. Check the disk"):
        store.save(2, MODEL, MOMENTS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_files_of_many_pieces_are_flushed_and_read_back_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("_PIECE", 24), ("_CHUNK", 7), ("_FLUSHED", 40)):
        monkeypatch.setattr(checkpoint, name, size)
    append = checkpoint._append
    flushed: list[str] = []

    def noted(path: Path) -> None:
        flushed.append(path.name)
        flush(path)

    monkeypatch.setattr(checkpoint, "flush", noted)
    store = saved(tmp_path, 1)
    loaded = load(store.found()[0])
    assert torch.equal(loaded.model["weight"], MODEL["weight"])
    assert torch.equal(loaded.optimizer["weight/exp_avg"], MOMENTS["weight/exp_avg"])
    assert flushed.count("model.safetensors") >= 2

    def wrong(file: BinaryIO, piece: memoryview) -> None:
        in_the_middle = file.tell() == 48 and Path(file.name).name == "model.safetensors"
        append(file, memoryview(bytes(len(piece))) if in_the_middle else piece)

    monkeypatch.setattr(checkpoint, "_append", wrong)
    with pytest.raises(OSError, match="`model.safetensors` is not what was written"):
        store.save(2, MODEL, MOMENTS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1).found()[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointCorrupt, match="has the format 99, and this version reads 1"):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"sha256"', '"sha356"'), ('"bytes"', '"bites"'), ('"files"', '"filez"'),
        ('"step": 2', '"step": 3'), ("model.safetensors", "modem.safetensors"),
        ('"format": 1', '"format": "1"'),
    ],
)  # fmt: skip
def test_a_changed_letter_of_the_manifest_leads_to_the_checkpoint_before(
    tmp_path: Path, old: str, new: str
) -> None:
    store = saved(tmp_path, 1, 2)
    path = store.found()[-1] / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found, problems = store.latest()
    assert found is not None and found.step == 1 and len(problems) == 1


def test_a_file_that_cannot_be_read_leads_to_the_checkpoint_before(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    path = store.found()[-1] / "model.safetensors"
    path.unlink()
    path.symlink_to("nowhere")
    found, problems = store.latest()
    assert found is not None and found.step == 1 and "cannot be read" in str(problems[0])


def test_damaged_checkpoints_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    (store.found()[-1] / "state.json").write_text("{}")
    store.save(3, MODEL, MOMENTS, {})
    assert [p.name for p in store.found()] == ["step-00000001", "step-00000002", "step-00000003"]
    (store.found()[-1] / "state.json").write_text("{}")
    found, _ = store.latest()
    assert found is not None and found.step == 1


def test_the_library_reads_what_is_streamed(tmp_path: Path) -> None:
    tensors = {
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(7),
        "half": torch.randn(3, 5).bfloat16(),
        "columns": torch.randn(4, 6).T,
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "double": torch.randn(2, dtype=torch.float64),
    }
    folder = CheckpointStore(tmp_path).save(5, tensors, {}, {})
    read = load(folder).model
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
