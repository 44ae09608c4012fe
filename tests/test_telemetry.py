"""No telemetry: every verb in a fresh home, watched by an audit hook."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = r"""
import json, os, pathlib, sys, tempfile
work, home = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
# Caches: matplotlib's below HOME, torch's compiler and temporary files in TMPDIR.
allowed = [work, pathlib.Path(tempfile.gettempdir()).resolve(), home / ".cache" / "matplotlib",
           home / ".config" / "matplotlib", pathlib.Path("/dev"), pathlib.Path("/proc")]
found = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        if not (event == "socket.connect" and isinstance(args[1], (str, bytes))):  # a Unix socket
            found.append(f"{event} {args[1:]}")
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = pathlib.Path(os.fsdecode(args[0])).resolve()
            if not any(path.is_relative_to(folder) for folder in allowed):
                if path.suffix != ".pyc" and "__pycache__" not in path.parts:
                    found.append(f"open {path}")
sys.addaudithook(watch)
from mezzotint.cli.app import run
import mezzotint.cli
codes = {}
for verb in json.loads(sys.argv[3]):
    codes[" ".join(verb)] = run(verb)
print("RESULT" + json.dumps({"codes": codes, "found": found}))
"""

RUN = [
    "encoder.width=2", "encoder.grid=1", "run.epochs=1", "run.batch_size=256",
    "run.log.knn_epochs=0", "--train-only",
]  # fmt: skip

EXPORT = ["export", "run", "--format", "onnx", "--bits", "W8A8", "--runtime", "openvino"]


def test_no_verb_reaches_for_the_network_or_writes_outside_the_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nncf")
    home, work, temporary = (tmp_path / name for name in ("home", "work", "tmp"))
    for folder in (home, work, temporary):
        folder.mkdir()
    verbs = [
        ["pretrain", "image/emoji_simclr", "data.name=digits", *RUN, "--out", "run", "--quiet"],
        ["evaluate", "run", "evaluate.probes=[knn]", "evaluate.bits=[W8A8]"],
        ["embed", "run", "--out", "features.npz"],
        ["export", "run", "--format", "onnx", "--bits", "W8A8"],
        EXPORT,
        ["report", "run"],
        ["recipes"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(work), str(home), json.dumps(verbs)],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        cwd=work, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT")), None)
    assert line is not None, done.stderr[-3000:]
    result = json.loads(line.removeprefix("RESULT"))
    # An export of barely trained weights may be refused by its kNN, after all of its conversions.
    refused = {verb for verb, code in result["codes"].items() if code}
    assert refused <= {" ".join(EXPORT)}, f"{refused} {done.stderr[:1500]}"
    assert not result["found"]
    # Native code writes without an audit event: nothing but the named cache is left behind.
    left = {p.relative_to(home).parts[:2] for p in home.rglob("*") if p.is_file()}
    assert left <= {(".cache", "matplotlib"), (".config", "matplotlib")}
