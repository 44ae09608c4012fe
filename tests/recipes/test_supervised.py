"""Every shipped supervised recipe builds and trains two steps with its own parts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / ("train" if number < 32 else "val") / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(
            place / f"{number}.png"
        )
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / ("train" if number < 32 else "val") / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{number}.wav", rng.standard_normal(8000) * 0.1, 16000)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    av = pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / ("train" if number < 32 else "val") / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        with av.open(str(place / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=30)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(
                    rng.integers(0, 255, (32, 48, 3), dtype=np.uint8), format="rgb24"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return folder


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("supervised/")])
def test_two_steps(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    published = read_recipe(name)
    timm = published["encoder"]["kind"] == "timm"
    kind = published["data"]["source"]["kind"]
    small = [
        "run.epochs=1",
        "run.batch_size=16",
        "run.loader.workers=0",
        "run.log.every_steps=1",
        "data.fraction=1.0",
    ]
    if kind == "smartwatch":
        small = ["run.epochs=1", "run.batch_size=200", "encoder.width=8"]
    elif kind == "video_folder":
        small += [f"data.source.root={request.getfixturevalue('videos')}", "data.source.size=32"]
        small += [
            "data.source.files=null",
            "data.source.test_files=null",
            "run.compute.precision=fp32",
        ]
        small += ["encoder.depth=1", "encoder.width=24", "encoder.heads=2"]
    elif kind == "audio_folder":
        lists = ("files", "test_files")
        small += [
            f"data.source.root={request.getfixturevalue('sounds')}",
            "encoder.depth=1",
            "run.compute.precision=fp32",
        ]
        small += [
            *(f"data.source.{key}=null" for key in lists),
            "encoder.width=24",
            "encoder.heads=2",
        ]
        small.append("data.source.seconds=1.295")  # 128 frames
        small += ["data.balance.samples=32"] if published["data"]["balance"] else []
    else:
        small += (
            ["encoder.depth=1", "encoder.heads=2"] if published["encoder"]["kind"] == "vit" else []
        )
        small += [
            "data.source.kind=image_folder",
            f"data.source.root={request.getfixturevalue('images')}",
            f"data.source.size={160 if timm else 32}",
        ]
        small.append("encoder.name=test_vit" if timm else "encoder.width=4")
    recipe = Recipe.build(read_recipe(name, small))
    assert (
        recipe.config()["views"] == published["views"]
        and recipe.config()["optimizer"] == published["optimizer"]
    )
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
    assert losses and None not in losses
