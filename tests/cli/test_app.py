"""The command line as a user meets it: one line for an error, the right exit code, no loss."""

import errno
import io
import json
import os
import pickle
import shlex
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.cli.app import tolerant
from tests.commands import completed

SMALL = [
    "data.name=digits", "encoder.width=2", "encoder.grid=1", "method.hidden_dim=8", "method.dim=8",
    "run.epochs=1", "views.crop.size=8", "evaluate.seeds=1", "run.log.knn_epochs=0",
    "evaluate.bits=[]", "export=null",
]  # fmt: skip


def mezzotint(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter of its own, as a shell does."""
    program = "import sys; sys.argv[0] = 'mezzotint'; from mezzotint.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False, encoding="utf-8",
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **env
        },
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mezzotint: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def bomb(path: Path, side: int = 20_000) -> None:
    """A PNG of 400 megapixels in about 49 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + side // 8)
    packed = zlib.compress(row * side, 9)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def photos(folder: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        subfolder = folder / ("cats" if number % 2 else "dogs")
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(
            subfolder / f"{number}.png"
        )
    return folder


@pytest.mark.parametrize("argument", ["--help", "--version", "recipes"])
def test_light_verbs_do_not_import_torch(argument: str, tmp_path: Path) -> None:
    program = (
        "import sys, atexit; sys.argv = ['mezzotint', sys.argv[1]]\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from mezzotint.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, argument],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stderr.strip() == "False" and done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["pretrain", "image/nothing"],
            ["There is no recipe 'image/nothing'", "mezzotint recipes"],
        ),
        (["pretrain", "run.epoch=3"], ["`run.epoch` is not a key of run", "Did you mean 'epochs'"]),
        (["pretrain", "run.epochs=three"], ["`run.epochs` must be a whole number, got 'three'"]),
        (
            ["pretrain", "method.kind=simcrl"],
            ["`method.kind` must be one of", "got 'simcrl'", "Did you mean 'simclr'"],
        ),
        (["pretrain", "run.epochs"], ["There is no recipe 'run.epochs'"]),
        (
            ["pretrain", "image/emoji_simclr", "more"],
            ["Only overrides may follow the recipe, got 'more'"],
        ),
        (["pretrain", "--resume"], ["--resume needs the directory"]),
        (["pretrian"], ["pretrian"]),
        (["pretrain", "--nothing"], ["--nothing"]),
        (["recipes", "image/emoji_simcrl"], ["Did you mean 'image/emoji_simclr'"]),
        (["recipes", "method.simcrl"], ["Did you mean 'simclr'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_written(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    began = time.monotonic()
    refused(mezzotint(*arguments, cwd=tmp_path), *words)
    # benchmarks/startup.py measures the time (under 3 s); this only notices an import of torch.
    assert time.monotonic() - began < 20
    assert not list(tmp_path.iterdir())


def bad_data(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Every bad input of data, with the words its one line must hold."""
    one_class = folder / "empty"
    one_class.mkdir()
    text = folder / "text"
    text.mkdir()
    (text / "a.txt").write_text("hello")
    bombs = folder / "bombs"
    bombs.mkdir()
    for number in range(8):
        bomb(bombs / f"{number}.png", 20_000)
    np.savez(folder / "object.npz", x=np.array([{"a": 1}, None], dtype=object))
    (folder / "pickle.npy").write_bytes(pickle.dumps(print))
    folder_recipe = [
        "image/folder_simclr",
        "encoder.width=2",
        "encoder.grid=1",
        "run.epochs=1",
        "run.loader.workers=0",
        "data.size=16",
    ]
    arrays = ["image/emoji_simclr", "data.kind=arrays"]
    return {
        "missing": ([*folder_recipe, f"data.root={folder}/nowhere"], ["nowhere"]),
        "empty": ([*folder_recipe, f"data.root={one_class}"], ["empty"]),
        "text": ([*folder_recipe, f"data.root={text}"], ["text"]),
        "bombs": (
            [*folder_recipe, f"data.root={bombs}", "run.batch_size=4"],
            ["unreadable", "too large"],
        ),
        "object": ([*arrays, f"data.path={folder}/object.npz"], ["object"]),
        "pickle": ([*arrays, f"data.path={folder}/pickle.npy"], ["pickle.npy"]),
        "range": (["run.epochs=0"], ["`run.epochs` must be at least 1, got 0"]),
        "probability": (["views.flip=1.5"], ["1.5"]),
        "bins": (
            ["views.randomized_quantization.bins=1"],
            ["`bins` must be an integer of at least 2", "got 1"],
        ),
        "temperature": (
            ["method.temperature=-1.0"],
            ["`method.temperature` must be positive, got -1.0"],
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "empty",
        "text",
        "bombs",
        "object",
        "pickle",
        "range",
        "probability",
        "bins",
        "temperature",
    ],
)
def test_bad_data_and_values(tmp_path: Path, case: str) -> None:
    (tmp_path / "in").mkdir()
    arguments, words = bad_data(tmp_path / "in")[case]
    refused(
        completed("pretrain", *arguments, "--out", tmp_path / "run", "--quiet", cwd=tmp_path),
        *words,
    )
    assert not (tmp_path / "run" / "encoder").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    exports = "export={onnx: [], packed: [W4A32]}"
    done = mezzotint("pretrain", *SMALL, exports, "--out", "ein lauf ü", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert "exports/packed-W4A32: " in done.stdout and "verified on" in done.stdout
    return folder / "ein lauf ü"


@pytest.mark.xdist_group("cli_run")
def test_pretrain_leaves_encoder_evaluation_and_report(run: Path) -> None:
    rows: list[dict[str, Any]] = json.loads((run / "evaluation.json").read_text())
    keys = {"probe", "metric", "value", "protocol", "bits", "compute", "seed"}
    assert rows and all(set(row) == keys for row in rows)
    assert {"raw", "untrained", "handmade"} == set(json.loads((run / "baselines.json").read_text()))
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "exports" / "packed-W4A32" / "verification.json").is_file()
    assert "Exported encoders" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.xdist_group("cli_run")
def test_an_output_folder_in_use(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    refused(completed("pretrain", *SMALL, "--out", run, cwd=run.parent), "--resume", "--overwrite")
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


@pytest.mark.xdist_group("cli_run")
def test_resume_with_another_recipe_is_refused(run: Path) -> None:
    done = completed("pretrain", "optimizer.lr=9.0", "--out", run, "--resume", cwd=run.parent)
    refused(done, "`optimizer.lr` must stay", "got 9.0")
    assert done.returncode == 2


def test_a_flipped_byte_is_passed_over_and_said(run: Path, tmp_path: Path) -> None:
    first = completed(
        "pretrain",
        *SMALL,
        "run.checkpoints.every_steps=3",
        "--train-only",
        "--out",
        "r",
        cwd=tmp_path,
    )
    assert first.returncode == 0, first.stderr
    newest = sorted((tmp_path / "r" / "checkpoints").iterdir())[-1] / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = completed("pretrain", "--out", "r", "--resume", "--train-only", cwd=tmp_path)
    assert again.returncode == 0 and "skipped a damaged checkpoint" in again.stderr
    weights = tmp_path / "r" / "encoder" / "encoder.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(completed("embed", "r", "digits", cwd=tmp_path), "is damaged", "SHA-256")


def test_a_folder_of_images_from_start_to_page(tmp_path: Path) -> None:
    root = photos(tmp_path / "my photos", 40)
    (root / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = completed(
        "pretrain", "image/folder_simclr", f"data.root={root}", "data.size=16",
        "encoder.width=2", "encoder.grid=1", "run.batch_size=16", "run.epochs=8",
        "evaluate.seeds=1", "run.loader.workers=1", "method.hidden_dim=8", "--out", "r",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert list(environment["unreadable"]) == ["cats/broken.png"]
    assert "broken.png" in (tmp_path / "r" / "report.html").read_text()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = completed("pretrain", *SMALL, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()[:6]]
    assert names == ["data", "recipe", "run", "training", "evaluation", "memory"]
    assert "kind: simclr" not in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    fault = f"loop.after_step:step=3:{'sigint' if number == signal.SIGINT else 'sigterm'}"
    done = completed("pretrain", *SMALL, "--out", "r", "--quiet", cwd=tmp_path, fault=fault)
    refused(done, "--resume", code=code)
    done = completed("pretrain", "--out", "r", "--resume", "--train-only", cwd=tmp_path)
    assert done.returncode == 0 and "resumed at step 4" in done.stderr
    assert (tmp_path / "r" / "encoder").is_dir()


def test_a_full_disk_is_a_failure_and_not_bad_input(tmp_path: Path) -> None:
    done = completed(
        "pretrain",
        *SMALL,
        "--out",
        "r",
        "--quiet",
        cwd=tmp_path,
        fault="checkpoint.after_model:step=7:enospc",
    )
    found = ("No space left on device", "MB are free", "no earlier checkpoint", "--overwrite")
    refused(done, *found, code=1)


def test_an_unforeseen_error_is_one_line_and_has_a_traceback_on_request(tmp_path: Path) -> None:
    fault = "loop.after_step:step=1:raise"
    refused(
        completed("pretrain", *SMALL, "--out", "a", "--quiet", cwd=tmp_path, fault=fault),
        "--debug",
        code=1,
    )
    done = completed(
        "pretrain", *SMALL, "--out", "b", "--quiet", "--debug", cwd=tmp_path, fault=fault
    )
    assert "Traceback" in done.stderr and done.returncode == 1


def test_json_lines_on_stdout(tmp_path: Path) -> None:
    done = completed("pretrain", *SMALL, "--out", "r", "--json", "--train-only", cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines if "step" in line][-1] == 7 and statistics.fmean(
        line["loss"] for line in lines if "loss" in line
    ) > 0
    assert done.stderr == ""


def test_a_closed_pipe_and_a_foreign_locale(tmp_path: Path) -> None:
    program = f"{sys.executable} -m mezzotint recipes | head -1"
    done = subprocess.run(
        program, shell=True, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stderr == "" and done.stdout.startswith("audio/")
    done = mezzotint(
        "recipes", "method.lejepa", cwd=tmp_path, LC_ALL="C", PYTHONIOENCODING="", PYTHONUTF8="0"
    )
    assert done.returncode == 0, done.stderr


def test_output_that_nobody_takes_is_dropped(tmp_path: Path) -> None:
    for shell, code, words in (
        ("recipes > /dev/full", 1, "The output could not be written (No space left on device). "),
        ("recipes >&-", 0, ""),
        ("recipes 2>&-", 0, ""),
    ):
        program = f"{sys.executable} -m mezzotint {shell}"
        done = subprocess.run(
            program, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, words in done.stderr) == (code, True), (shell, done.stderr)
        assert "Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as pipe, open("/dev/full", "w") as full:
        for stream, number in ((pipe, errno.EPIPE), (full, errno.ENOSPC)):
            out = tolerant(stream)
            for _ in range(3):
                print("x" * 100_000, file=out, flush=True)
            assert out.buffer.raw.error == number  # type: ignore[attr-defined]
            out.detach()  # type: ignore[attr-defined]
    for without_file in (io.StringIO(), io.TextIOWrapper(io.BytesIO())):  # as notebooks have
        assert tolerant(without_file) is without_file


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    """Escape sequences, line ends and bytes that are no text, in real names of files."""
    folder = tmp_path / "pho\x1b[31mtos"
    folder.mkdir()
    for name in ("a\x1b[2J.png", "b\nok.png", "c\udcff.png"):
        (folder / name).write_bytes(b"no image")
    done = mezzotint("doctor", str(folder), cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
    for found in (r"a\x1b[2J.png: not", r"b\nok.png: not", r"c\udcff.png: not"):
        assert found in done.stdout
    done = mezzotint("doctor", "gone\x1b]0;title\x07", cwd=tmp_path)
    refused(done, r"`gone\x1b]0;title\x07` does not exist", code=2)


def test_an_override_that_is_no_text_is_bad_input(tmp_path: Path) -> None:
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        for text in ("run.seed=\udcff", "data.name=\udcff", "me\udcfft.x=1"):
            done = mezzotint("pretrain", *SMALL, text, "--out", "r", cwd=tmp_path, **locale)
            refused(done, "dcff", code=2)
    assert not (tmp_path / "r").exists()


def test_nothing_of_the_environment_is_written(tmp_path: Path) -> None:
    done = completed(
        "pretrain", *SMALL, "--out", "r", "--quiet", cwd=tmp_path, SECRET_TOKEN="canary-7391"
    )
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "r").rglob("*"):
        if path.is_file():
            assert b"canary-7391" not in path.read_bytes(), path


def test_bash_completes_verbs_options_and_recipes(tmp_path: Path) -> None:
    """The script that `mezzotint --show-completion` prints, in a real bash."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    program = "import sys; sys.argv[0] = 'mezzotint'; from mezzotint.cli import main; main()"
    (tmp_path / "mezzotint").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{program}" "$@"\n', encoding="utf-8"
    )
    (tmp_path / "mezzotint").chmod(0o755)
    script = 'eval "$(_MEZZOTINT_COMPLETE=source_bash mezzotint)"\n'
    for words in (["pretr"], ["pretrain", "image/emoji_s"], ["evaluate", "--clip"]):
        script += (
            f"COMP_WORDS=(mezzotint {' '.join(words)}); COMP_CWORD={len(words)}\n"
            '_mezzotint_completion mezzotint; echo "${COMPREPLY[@]}"\n'
        )
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=env
    )
    assert done.stdout.split("\n")[:-1] == [
        "pretrain", "image/emoji_simclr image/emoji_ssql", "--clips",
    ]  # fmt: skip
