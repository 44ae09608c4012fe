"""A checkpoint that was written once: this format must stay readable, bit for bit."""

import hashlib
import shutil
from pathlib import Path

import torch

from mezzotint.train.checkpoint import CheckpointStore, load, verify
from tests import ROOT

GOLDEN = ROOT / "tests/golden/checkpoint/step-00000003"
SHA256 = "7839857c636529387b0cf812fad0f6a9b53771046bc5945fbaeba73e228a8b15"


def test_a_checkpoint_of_the_first_format_loads_bit_for_bit(tmp_path: Path) -> None:
    """Written by 0.1.0: tensors of all types, made by arithmetic that is exact."""
    manifest = verify(GOLDEN)
    assert manifest["format"] == 1
    saved = load(GOLDEN)
    sums = hashlib.sha256()
    for name, tensor in sorted({**saved.model, **saved.optimizer}.items()):
        sums.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sums.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    assert sums.hexdigest() == SHA256
    assert saved.step == 3 and saved.state["skipped"] == [1]
    shutil.copytree(GOLDEN, tmp_path / "checkpoints" / GOLDEN.name)
    again = CheckpointStore(tmp_path / "checkpoints").save(
        4, saved.model, saved.optimizer, saved.state
    )
    written = load(again)
    assert all(written.model[name].equal(saved.model[name]) for name in saved.model)
