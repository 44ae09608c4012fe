"""Flip single bits in every file of a run, its exports and its bundle, and read everything again.

A flip is *found* if the file is refused, left out or passed over in words; *harmless* if what is
read is what was written; *silent* if it is anything else.
"""

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.files import read_json
from mezzotint.recipe.recipe import read_recipe
from mezzotint.train.callbacks import read_maps
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from mezzotint.train.postmortem import read_bundle
from tests.faults.isolated import refusal

Read = Callable[[Path], Any]
UNREAD = (".html", ".md")
"""Pages and tables for people, which no verb reads; `mezzotint report` writes them again."""


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    sums = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sums.update(name.encode() + str(tensor.dtype).encode() + str(tensor.shape).encode())
        sums.update(tensor.detach().contiguous().numpy().tobytes())
    return sums.hexdigest()


def _encoder(folder: Path) -> Any:
    encoder = load_encoder(folder)
    return _digest(encoder.state_dict()), encoder.config, encoder.input, encoder.preprocessing


def _checkpoint(folder: Path) -> Any:
    saved, problems = CheckpointStore(folder).latest()
    if problems:
        raise problems[0]
    assert saved is not None
    return saved.step, _digest(saved.model), _digest(saved.optimizer), saved.state


def _onnx(file: Path) -> Any:
    from mezzotint.encoders.onnx import load_exported

    encoder = load_exported(file)
    x = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    return encoder(x).tolist(), encoder.input, encoder.preprocessing


def _opened(folder: Path) -> Any:
    from mezzotint.export.float_formats import open_timm, open_torch_export, open_torchvision

    x = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    if folder.name.startswith("torch_export"):
        return open_torch_export(folder / "encoder.pt2")(x).tolist()
    opener = open_timm if folder.name.startswith("timm") else open_torchvision
    return opener(folder)(x).tolist()


def _maps(run: Path) -> Any:
    return [(one.epoch, one.components.tolist(), one.labels.tolist()) for one in read_maps(run)]


def readers_of(path: Path, root: Path) -> list[Callable[[], Any]]:
    """Choose what reads a file: all readers of its folder, for the seals of a folder."""
    folder, name = path.parent, path.name
    own: dict[str, Read] = {
        "recipe.yaml": lambda p: read_recipe(p.parent),
        "metrics.jsonl": read_metrics,
        "evaluation.json": lambda p: read_evaluation(p.parent),
        "baselines.json": lambda p: read_baselines(p.parent),
        "encoder.json": lambda p: _encoder(p.parent),
        "encoder.safetensors": lambda p: _encoder(p.parent),
        "packed.json": lambda p: _encoder(p.parent),
        "packed.safetensors": lambda p: _encoder(p.parent),
        "encoder.onnx": _onnx,
        "encoder.pt2": lambda p: _opened(p.parent),
        "bundle.json": lambda p: read_bundle(p.parent),
    }
    if "checkpoints" in path.relative_to(root).parts:
        store = next(p for p in path.parents if p.name == "checkpoints")
        return [lambda: _checkpoint(store)]
    if name == "seals.json":
        beside = [p for p in sorted(folder.iterdir()) if p.is_file() and p != path]
        return [read for p in beside for read in readers_of(p, root)]
    if folder.name == "maps":
        return [lambda: _maps(folder.parent)]
    if name in own:
        return [lambda: own[name](path)]
    if path.suffix in UNREAD:
        return []
    if folder.name.startswith("timm") and name != "verification.json":
        return [lambda: _opened(folder)]
    return [lambda: read_json(path)]


def files_of(root: Path) -> list[Path]:
    """List the files that are read, relative to the root."""
    return [
        path.relative_to(root)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock" and readers_of(path, root)
    ]


class Flips:
    """Flips bits of a copy of a directory, one at a time.

    Args:
        good: the directory.
        copy: where the copy goes.
        seed: of files, positions and bits.
    """

    def __init__(self, good: Path, copy: Path, seed: int) -> None:
        self.copy, self.seed = copy, seed
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        self.files = files_of(copy)
        # The copy is the golden one: its readers name its own paths.
        self.golden = {
            file: [read() for read in readers_of(copy / file, copy)] for file in self.files
        }

    def __call__(self, number: int) -> dict[str, Any]:
        """Flip one bit, read, and put it back."""
        draws = random.Random(f"flip {self.seed} {number}")
        file = self.files[number % len(self.files)]
        path = self.copy / file
        content = path.read_bytes()
        at, bit = draws.randrange(len(content)), draws.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        told = {"file": str(file), "at": at, "bit": bit}
        try:
            return {**told, **self._judge(file)}
        finally:
            path.write_bytes(content)

    def _judge(self, file: Path) -> dict[str, Any]:
        readers = readers_of(self.copy / file, self.copy)
        for read, golden in zip(readers, self.golden[file], strict=True):
            try:
                now = read()
            except Exception as error:
                judged = refusal(error)
                return {**judged, "outcome": "found"} if judged["outcome"] == "refused" else judged
            if repr(now) == repr(golden):
                continue
            # A damaged line or map is left out, and the rest is as it was.
            rest = map(repr, golden) if isinstance(now, list) else ()
            if isinstance(now, list) and set(map(repr, now)) <= set(rest):
                return {"outcome": "found", "said": "left out"}
            return {"outcome": "silent", "said": f"{repr(now)[:150]} for {repr(golden)[:150]}"}
        return {"outcome": "harmless"}
