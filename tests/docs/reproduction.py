"""Tiny data in the layout of the real sets, and sizes at which a published recipe takes a second.

The commands of docs/reproduce run as they are written. Only sizes are made small, after a recipe
and its overrides are read: no kind, loss, schedule or view changes.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from mezzotint.encoders.audio_ntt import AudioNTT
from mezzotint.encoders.resnet import resnet18, resnet50
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input
from tests.data.audio import test_benchmarks as sounds
from tests.data.detection.test_voc import voc
from tests.data.image.test_classic import write_cifar10_python
from tests.data.image.test_transfer_set import pets
from tests.data.prepare.test_prepare import film, tone
from tests.interop.test_layouts import airl, massrl, mocov3
from tests.interop.test_vit import bridle_file

RNG = np.random.default_rng(0)
RESNET = {"width": 4}
VIT = {"width": 24, "depth": 1, "heads": 2}
RUN = {
    "epochs": 1, "batch_size": 8, "micro_batches": 1, "compute.precision": "fp32",
    "loader.workers": 0, "log.knn_epochs": 0,
}  # fmt: skip
METHOD = {"hidden_dim": 16, "dim": 8, "queue_size": 32, "bank": 16}
GRID = {"kind": "knn_grid", "k": [1, 5], "temperature": [0.07, 0.2]}
DECODER = {"width": 16, "depth": 2, "heads": 2}


def shrink(config: dict[str, Any]) -> dict[str, Any]:
    """Make the sizes of a recipe small, in place, in all its phases."""
    data, encoder = config.get("data", {}), config.get("encoder", {})
    if data.get("source", data).get("kind") == "image_folder" and encoder.get("patch") == 16:
        encoder["patch"] = 8
    for section in (config, *config.get("phases", [])):
        for name, value in section.items():
            _shrink(name, value)
    if "run" in config or "method" in config:
        config["run"] = _small_run(config.get("run", {}))
    if "evaluate" in config:
        config["evaluate"]["seeds"] = 1
        if (probes := config["evaluate"].get("probes")) is not None:
            config["evaluate"]["probes"] = [GRID if p == "knn_grid" else p for p in probes]
    for phase in config.get("phases", []):
        if "run" in phase:
            phase["run"] = {"epochs": 1}
    return config


def _small_run(run: dict[str, Any]) -> dict[str, Any]:
    small = dict(run)
    for key, value in RUN.items():
        first, _, second = key.partition(".")
        if second:
            small[first] = {**small.get(first, {}), second: value}
        else:
            small[first] = value
    return small


def _shrink(name: str, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _shrink(name, item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        _shrink(key, inner)
    kind = str(value.get("kind", ""))
    if name == "encoder":
        value.update(
            RESNET if kind.startswith(("resnet", "dgcnn")) else VIT if kind == "vit" else {}
        )
        if kind == "audio_ntt":
            value.update({"width": 4, "dim": 32})
    if kind in ("byol", "moco", "mocov3", "simsiam", "simclr"):
        value.update({key: size for key, size in METHOD.items() if key in value})
    if kind in ("image_folder", "transfer_set"):
        value["size"] = 32
    if kind in ("rq", "vq"):
        value.update({"dim": 8, "num_codes": 8})
    if name == "decoder":
        value.update(DECODER)
        value.update({"window": 2, "shift": [0, 1]} if value.get("window") else {})
    if name == "balance":
        value["samples"] = 8
    if name == "schedule" and "warmup_epochs" in value:
        value["warmup_epochs"] = 0
    if kind == "audio_folder":
        value["seconds"] = 1.295 if value.get("front_end") == "audioset" else 1.0
    if kind == "video_folder":
        value["size"] = 32
    if name == "training":
        value.update({"steps": 1, "batch_size": 1, "workers": 0, "precise_bn_batches": 0})
        value["warmup_steps"] = 0
    if name == "model":
        value.update({"min_size": [48], "max_size": 64})


def image_folder(root: Path, side: int = 40) -> None:
    """ImageNet's layout: a folder for each class in train/ and val/."""
    for number in range(24):
        folder = root / ("train" if number < 16 else "val") / f"n0{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 255, (side, side + 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.JPEG")


def checkpoints(root: Path) -> None:
    """Files in the layouts of the projects, with tiny networks."""
    torch.manual_seed(0)
    rgb = Input((3, 32, 32), IMAGENET_MEAN, IMAGENET_STD)
    state = resnet50(rgb, width=4).state_dict()
    torch.save(mocov3(state, state), root / "rrc_randomized_quantization_100ep.pth.tar")
    torch.save(airl(state, state), root / "S-MoCov2p.pth.tar")
    torch.save(massrl(state, state), root / "massrl.ckpt")
    small = resnet18(rgb, stem="small", width=4).state_dict()
    ssql = {f"module.encoder_q.model.{in_ssql(name)}": t for name, t in small.items()}
    torch.save({"state_dict": ssql, "epoch": 400}, root / "checkpoint.pth.tar")
    audio = AudioNTT(Input((1, 64, 96), (0.0,), (1.0,), modality="audio"), dim=512)
    bridle_file(root)
    vit = timm.models.VisionTransformer(
        patch_size=16, embed_dim=VIT["width"], depth=VIT["depth"], num_heads=VIT["heads"]
    )
    save_file(vit.state_dict(), root / "vit_base.safetensors")
    torch.save(audio.state_dict(), root / "AudioNTT2020-BYOLA-64x96d512.pth")


def in_ssql(name: str) -> str:
    """Name a tensor as SSQL's code does: norms are inside the convolutions before them."""
    name = re.sub(r"downsample\.1\.", "downsample.bn_function.", name)
    name = re.sub(r"downsample\.0\.", "downsample.", name)
    return re.sub(r"(?<=\.)bn(\d)\.", r"conv\1.bn_function.", f".{name}")[1:]


def audioset(root: Path) -> None:
    """A download of AudioSet: lists of segments, names of classes, clips by identifier."""
    lists = {"balanced_train": 8, "unbalanced_train": 8, "eval": 6}
    labels = ["index,mid,display_name", '0,/m/a,"Speech"', '1,/m/b,"Music"']
    root.mkdir()
    (root / "class_labels_indices.csv").write_text("\n".join(labels) + "\n")
    number = 0
    for name, count in lists.items():
        rows = [
            "# Segments csv",
            "# num_ytids=9",
            "# YTID, start_seconds, end_seconds, positive_labels",
        ]
        for index in range(count):
            clip = f"clip{number:07d}"
            number += 1
            rows.append(f'{clip}, 30.000, 40.000, "{"/m/a" if index % 2 else "/m/b,/m/a"}"')
            tone(root / name / f"{clip}.wav", rate=16000, seconds=1.3, channels=1)
        (root / f"{name}_segments.csv").write_text("\n".join(rows) + "\n")


def esc50(root: Path) -> None:
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(20):
        name = f"{number % 5 + 1}-{number}-A-{number % 2}.wav"
        fold, kind = number % 5 + 1, ("dog", "rain")[number % 2]
        rows.append(f"{name},{fold},{number % 2},{kind},False,{number},A")
        tone(root / "audio" / name, seconds=1.3)
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


def kinetics(root: Path) -> None:
    """Kinetics' layout: videos named by identifier and times, and a list for each split."""
    for split, count in (("train", 8), ("val", 4)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for number in range(count):
            film(root / split / f"{split}{number:06d}_000001_000011.mp4", frames=10)
            label = ("jumping", "running")[number % 2]
            rows.append(f"{label},{split}{number:06d},1,11,{split}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")


def cifar10(root: Path) -> None:
    write_cifar10_python(root)


def pets_folder(root: Path) -> None:
    pets(root)


def pascal(root: Path) -> None:
    voc(root / "VOC2007")


def points(path: Path) -> None:
    np.savez(path, x=RNG.normal(size=(20, 64, 3)), y=np.arange(20) % 2)


SETS: dict[str, Callable[[Path], None]] = {
    "imagenet": image_folder,
    "audioset-download": audioset,
    "ESC-50": esc50,
    "k400-download": kinetics,
    "VOCdevkit": pascal,
    "cifar-10": cifar10,
    "modelnet40.npz": points,
    "pets": pets_folder,
    **sounds.MADE,
}


def named(command: str) -> Iterator[str]:
    """Yield the data sets that a command names."""
    for name in SETS:
        if f"{name}/" in command or command.endswith(name) or f"{name} " in command:
            yield name
