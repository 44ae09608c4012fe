"""`embed` and `evaluate` under torchrun write what one process writes, bit for bit."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint import save_encoder
from mezzotint.cli.app import run
from mezzotint.data.image.folder import ImageFolder
from mezzotint.encoders.resnet import resnet8
from tests.ranks import spawn
from tests.test_contract_sources import noise

pytestmark = pytest.mark.xdist_group("evaluation_ranks")

SIZES = (1, 300)  # fewer samples than processes; two batches, the last one partial


def commands(folder: Path, out: Path) -> list[list[str]]:
    embedding = [
        ["embed", f"{folder}/encoder", f"{folder}/photos-{size}", "--out", f"{out}/{size}.npz"]
        for size in SIZES
    ]
    evaluating = ["evaluate", str(out / "encoder"), str(folder / "photos-300"), "--quiet"]
    return [
        *embedding,
        [*evaluating, "evaluate.probes=[knn]"],
    ]


def everything(folder: Path, out: Path) -> list[int]:
    torch.set_num_threads(1)
    return [run(command) for command in commands(folder, out)]


def _worker(rank: int, folder: str, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    codes = everything(Path(folder), Path(folder) / "two")
    assert codes == [0] * len(codes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    for size in SIZES:
        for number in range(size):
            path = folder / f"photos-{size}" / ("cat" if number % 3 else "dog") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(10, 10 + number % 7, 3) // (1 + number % 5)).save(path)
        if size > 1:
            for name in ("bad", "0 worse", "worst"):
                (folder / f"photos-{size}" / "dog" / f"{name}.png").write_bytes(b"no image")
    source = ImageFolder(root=str(folder / "photos-300"), size=8)
    for out in (folder, folder / "one", folder / "two"):
        torch.manual_seed(0)
        save_encoder(resnet8(source.input, width=4), out / "encoder", source=source)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_worker, (str(folder), port), nprocs=2)
    threads = torch.get_num_threads()
    codes = everything(folder, folder / "one")
    torch.set_num_threads(threads)
    assert codes == [0] * len(codes)
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_features_ids_and_labels_are_equal_to_the_last_bit(folder: Path, size: int) -> None:
    arrays: list[dict[str, Any]] = [
        dict(np.load(folder / name / f"{size}.npz")) for name in ("one", "two")
    ]
    assert arrays[0].keys() == arrays[1].keys() and len(arrays[0]["ids"]) == size
    for name, expected in arrays[0].items():
        assert np.array_equal(arrays[1][name], expected), name


def test_every_result_is_equal_to_the_last_bit(folder: Path) -> None:
    for name in ("evaluation.json", "baselines.json"):
        found, expected = (
            json.loads((folder / run / "encoder" / name).read_text()) for run in ("two", "one")
        )
        assert found == expected and len(str(expected)) > 200
