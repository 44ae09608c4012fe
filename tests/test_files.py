import errno
import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mezzotint.files import (
    read_json,
    replacing,
    replacing_folder,
    require_seal,
    seal,
    shown,
    sweep,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == [
        "a.json"
    ]


def test_names_that_are_not_text_survive_and_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"bad\udc80name": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"bad\udc80name": "ü"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"bad\udc80name": "ü"}


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    """Some writers make private files: another user of the machine could not load the encoder."""
    with replacing(tmp_path / "x.bin") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL = r"`.*/a.bin` could not be written \(File too large; [\d.]+ MB are free\), and nothing was "


def test_a_full_disk_names_the_file_for_every_kind_of_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_text("before")
    with files_of(1000):
        with pytest.raises(OSError, match=FULL + "changed. Free some space, and run the command"):
            write_text(path, "x" * 9999)
        with pytest.raises(OSError, match=FULL), replacing(path) as temporary:
            save_file({"x": torch.zeros(9999)}, temporary)
        with pytest.raises(OSError, match=FULL), replacing(path) as temporary:
            with temporary.open("wb") as stream:
                np.savez(stream, x=np.zeros(9999))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_errors_of_the_disk_name_the_file_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for number, sentence in (
        (errno.ENOSPC, r"a.bin` could not be written \(No space left on device; .* MB are free"),
        (errno.EROFS, r"a.bin` could not be written \(Read-only file system\), .* Choose a folder"),
    ):
        with pytest.raises(OSError, match=sentence) as caught, replacing(path):
            raise OSError(number, os.strerror(number))
        assert caught.value.errno == number
    with pytest.raises(FileNotFoundError, match="gone/a.bin` could not be written .No such file"):
        write_text(tmp_path / "gone" / "a.bin", "x")
    with pytest.raises(FileNotFoundError, match="No such file or directory: '/no/input'"):
        with replacing(path):
            Path("/no/input").read_text()
    assert not list(tmp_path.iterdir())


def test_names_are_shown_without_what_a_terminal_would_obey() -> None:
    assert shown("a\n\x1b[31mb\r\udcff\u202egpj.exe\x7f\x9b") == (
        r"a\n\x1b[31mb\r\udcff\u202egpj.exe\x7f\x9b"
    )
    plain = "Bildschirmfoto 10:32\u202fAM äöü 猫 👩\u200d💻.png"
    assert shown(plain) == plain


def test_a_sealed_file_is_checked_and_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "encoder.json"
    write_json(path, {"mean": [0.5], "std": [0.25]}, sealed=True)
    require_seal(path)
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (1, 32):
            changed = bytearray(content)
            changed[position] ^= bit
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"encoder.json` changed after it was written"):
                require_seal(path)
    path.write_bytes(content)
    require_seal(path)
    write_json(path, {"mean": [0.1]}, sealed=True)
    require_seal(path)


def test_a_file_without_a_seal_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    require_seal(tmp_path / "notes.json")
    write_text(tmp_path / "other.txt", "x", sealed=True)
    require_seal(tmp_path / "notes.json")
    seal(tmp_path / "notes.json")
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(ValueError, match="changed"):
        require_seal(tmp_path / "notes.json")


def test_killed_while_sealing_the_old_and_the_new_file_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.yaml"
    write_text(path, "old: 1", sealed=True)
    replace, calls = os.replace, []

    def killed(source: object, target: object) -> None:
        calls.append(target)
        if Path(str(target)) == path:
            raise KeyboardInterrupt
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new: 1", sealed=True)
    monkeypatch.setattr(os, "replace", replace)
    require_seal(path)
    path.write_text("new: 1")
    require_seal(path)
    path.write_text("odd: 1")
    with pytest.raises(ValueError, match="changed"):
        require_seal(path)


def test_json_of_a_run_is_checked_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    write_json(path, {"seconds": 12.5}, sealed=True)
    assert read_json(path) == {"seconds": 12.5}
    path.write_bytes(path.read_bytes().replace(b"12.5", b"13.5"))
    with pytest.raises(ValueError, match="environment.json` changed after it was written"):
        read_json(path)
    (tmp_path / "seals.json").unlink()
    assert read_json(path) == {"seconds": 13.5}
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match="environment.json` is not valid JSON"):
        read_json(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_json(path)


def test_damaged_seals_are_refused_with_the_remedy(tmp_path: Path) -> None:
    write_text(tmp_path / "recipe.yaml", "a: 1", sealed=True)
    (tmp_path / "seals.json").write_text("{")
    with pytest.raises(ValueError, match=r"seals.json` cannot be read .*or remove it"):
        require_seal(tmp_path / "recipe.yaml")


def test_the_first_write_into_a_folder_removes_what_killed_processes_left(tmp_path: Path) -> None:
    (tmp_path / ".tmp-999999-evaluation.json").touch()
    write_json(tmp_path / "evaluation.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "exports" / "onnx"
    (tmp_path / "exports/.tmp-999999-packed").mkdir(parents=True)  # of a process that was killed
    for text in ("old", "new"):
        with replacing_folder(target) as folder:
            (folder / "data").mkdir()
            (folder / "data" / text).write_text(text)
        assert [p.name for p in (tmp_path / "exports").iterdir()] == ["onnx"]
        assert [p.name for p in target.rglob("*")] == ["data", text]
    with pytest.raises(ValueError, match="stop"), replacing_folder(target) as folder:
        (folder / "bad").touch()
        raise ValueError("stop")
    rename = os.rename

    def fail(source: Path, to: Path) -> None:
        if to == target and not source.name.startswith(".old-"):
            raise OSError("no")
        rename(source, to)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"), replacing_folder(target) as folder:
        (folder / "bad").touch()
    assert [p.name for p in (tmp_path / "exports").iterdir()] == ["onnx"]
    assert [p.name for p in target.rglob("*")] == ["data", "new"]


@pytest.mark.parametrize("is_new_there", [False, True])
def test_a_folder_whose_replacement_was_killed_is_there_again(
    tmp_path: Path, is_new_there: bool
) -> None:
    """Killed between the two renames: the old folder is aside, and the new one may not be there."""
    old, new = tmp_path / ".old-999999-onnx", tmp_path / ".tmp-999999-onnx"
    for folder, text in ((old, "old"), (tmp_path / "onnx" if is_new_there else new, "new")):
        folder.mkdir()
        (folder / "model.onnx").write_text(text)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    expected = "new" if is_new_there else "old"
    assert (tmp_path / "onnx" / "model.onnx").read_text() == expected


def test_temporary_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    dead = [tmp_path / ".tmp-999999-a.json", tmp_path / "maps" / ".tmp-999999-b.npz"]
    # Process 1 runs, but has started after this file was written: its number was used again.
    recycled = tmp_path / ".tmp-1-c.json"
    own = tmp_path / f".tmp-{os.getpid()}-d.json"
    # Process 999999 may run on another machine that shares the disk; after a day it does not.
    elsewhere, yesterday = (tmp_path / f".tmp-999999.0badcafe-{name}" for name in "ef")
    for path in (*dead, recycled, own, elsewhere, yesterday, tmp_path / ".tmp-notes"):
        path.write_text("")
    os.utime(yesterday, (time.time() - 90_000,) * 2)
    os.utime(recycled, (0, 0))
    folder = tmp_path / "maps" / ".tmp-999999-onnx"
    (folder / ".tmp-999999-inside").mkdir(parents=True)
    (folder / "model.onnx").write_text("half")
    assert sorted(sweep(tmp_path, recursive=False)) == sorted([dead[0], recycled, yesterday])
    assert sorted(sweep(tmp_path)) == sorted([dead[1], folder])
    assert own.exists() and elsewhere.exists() and (tmp_path / ".tmp-notes").exists()
