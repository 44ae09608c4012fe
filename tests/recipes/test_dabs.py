"""The recipes of text, video and DABS train two steps on small data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.image_tags import CHEXPERT
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from tests.tiny import is_masked

NAMES = [
    n for n in shipped() if n.split("/")[0] in ("tokens", "video", "dabs") and not is_masked(n)
]
EMBEDDED = {"emails", "emoji_names", "rotating_objects", "smartwatch", "speech"}


def small(name: str, recipe: dict[str, Any], folder: Path) -> list[str]:
    """Overrides that make a recipe small, on files that its own source reads."""
    rng = np.random.default_rng(0)
    kind = recipe["data"]["kind"]
    if kind in EMBEDDED:
        return []
    if kind == "tokens":
        np.savez(
            folder / "t.npz",
            x=rng.integers(0, recipe["data"].get("vocabulary") or 20, (40, 16)),
            label=np.arange(40) % 2,
        )
        return [f"data.path={folder / 't.npz'}", "data.length=16", "data.tokenizer=bytes"]
    if kind == "series":
        window = recipe["data"]["window"]
        np.savez(folder / "s.npz", x=rng.normal(size=(40, 3, window)), label=np.arange(40) % 2)
        return [f"data.path={folder / 's.npz'}", "data.channels=null"]
    if kind == "table":
        np.savez(folder / "t.npz", x=rng.normal(size=(40, 5)), label=np.arange(40) % 2)
        return [f"data.path={folder / 't.npz'}", "data.y=label"]
    if kind == "arrays":
        patch = recipe["encoder"]["patch"]
        np.savez(
            folder / "a.npz",
            x=rng.integers(0, 255, (40, 2 * patch, 2 * patch, 3), np.uint8),
            y=np.arange(40) % 2,
        )
        return [f"data.path={folder / 'a.npz'}", "data.size=null"]
    if kind in ("image_folder", "image_tags", "captioned_images"):
        from PIL import Image

        for number in range(16):
            Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(
                folder / f"{number}.png"
            )
        rows = "".join(f"{number}.png,1,,0,-1,{number % 2}\n" for number in range(16))
        (folder / "tags.csv").write_text(f"Path,{','.join(CHEXPERT)}\n{rows}")
        if kind == "captioned_images":
            (folder / "said.csv").write_text(
                "path,caption\n" + "".join(f"{n}.png,number {n}\n" for n in range(16))
            )
            return [
                f"data.root={folder}",
                f"data.files={folder / 'said.csv'}",
                "data.size=32",
                "data.tokenizer=bytes",
            ]
        lists = [
            f"data.{name}={folder / 'tags.csv'}"
            for name in ("files", "test_files")
            if kind == "image_tags"
        ]
        return [f"data.root={folder}", "data.size=32", *lists]
    if kind == "audio_folder":
        soundfile = pytest.importorskip("soundfile")
        for number in range(8):
            soundfile.write(folder / f"{number}.wav", rng.normal(size=8000) * 0.1, 16000)
        return [f"data.root={folder}"]
    video = pytest.importorskip("av")
    for number in range(8):
        with video.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            for _ in range(4):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                container.mux(stream.encode(video.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return [f"data.root={folder}", "data.size=32", "data.frames=4", "data.context=8"]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_train_two_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = read_recipe(name)
    files = small(name, published, tmp_path)
    sizes = (("width", 24), ("depth", 1), ("heads", 2))
    keywords = [f"encoder.{key}={n}" for key, n in sizes if key in published["encoder"]]
    method = published["method"]["kind"]
    if method in ("simclr", "mocov3"):
        keywords += ["method.hidden_dim=16", "method.dim=8"]
    if method == "mae":
        keywords += ["method.decoder.width=24", "method.decoder.depth=1", "method.decoder.heads=2"]
    run = [
        "run.epochs=1",
        "run.batch_size=4",
        "run.log.every_steps=1",
        "run.log.knn_epochs=0",
        "run.loader.workers=0",
    ]
    recipe = Recipe.build(read_recipe(name, [*files, *keywords, *run]))
    assert recipe.config()["optimizer"] == published["optimizer"]
    if hasattr(recipe.data, "images"):
        recipe.data.images = recipe.data.images[:8]
        monkeypatch.setattr(recipe.data, "evaluation", lambda: (recipe.data, []))  # of all images
    done = pretrain(recipe, tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(done / "metrics.jsonl")]
    assert len(losses) >= 2 and None not in losses
    assert torch.isfinite(torch.tensor(losses)).all()
