"""A path of any modality becomes an ordinary recipe of the size that fits a budget."""

import csv
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mezzotint.cli.app import run
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.cost import EvaluationCost
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import class_of
from mezzotint.train import budget
from mezzotint.train.budget import EVALUATION, Fitted, fit_path, fit_recipe, measure
from mezzotint.train.dry_run import FACTS
from tests.tiny import config

RNG = np.random.default_rng(0)


def images(root: Path, number: int = 40) -> Path:
    for i in range(number):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(path)
    return root


def image_arrays(root: Path) -> Path:
    np.savez(root / "x.npz", x=RNG.integers(0, 255, (40, 20, 20), dtype=np.uint8))
    return root / "x.npz"


def sounds(root: Path) -> Path:
    for i in range(20):
        with wave.open(str(root / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(RNG.integers(-999, 999, 8000).astype(np.int16).tobytes())
    return root


def clouds(root: Path) -> Path:
    for i in range(20):
        np.save(root / f"{i}.npy", RNG.normal(size=(40, 3)).astype(np.float32))
    return root


def texts(root: Path) -> Path:
    for i in range(20):
        (root / f"{i}.txt").write_text(f"text number {i} of twenty")
    return root


def rows(path: Path, header: Sequence[str], number: int) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for i in range(number):
            first = i // 100 if header[0] == "subject" else f"{RNG.normal():.3f}"
            writer.writerow([first, *(f"{x:.3f}" for x in RNG.normal(size=len(header) - 1))])
    return path


def videos(root: Path) -> Path:
    import av

    for i in range(4):
        with av.open(str(root / f"{i}.mp4"), "w") as out:
            stream = out.add_stream("mpeg4", rate=8)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for _ in range(10):
                pixels = RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                    out.mux(packet)
            for packet in stream.encode():
                out.mux(packet)
    return root


def captions(root: Path) -> Path:
    names = [f"{i}.png" for i in range(20)]
    for name in names:
        Image.fromarray(RNG.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(root / name)
    lines = [f"{name},picture {name} of noise" for name in names]
    (root / "captions.csv").write_text("\n".join(["path,caption", *lines]))
    return root / "captions.csv"


DATA: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "folder of images": (images, "image/folder_simclr", "image_folder", "resnet8"),
    "arrays of images": (image_arrays, "image/folder_simclr", "arrays", "resnet8"),
    "folder of sounds": (sounds, "audio/folder_simclr", "audio_folder", "resnet8"),
    "folder of clouds": (clouds, "points/folder_simclr", "point_clouds", "pointnet"),
    "folder of texts": (texts, "tokens/folder_simclr", "tokens", "ngrams"),
    "folder of videos": (videos, "video/folder_simclr", "video_folder", "vit"),
    "images with text": (captions, "dabs/image_text", "captioned_images", "domain_agnostic"),
    "table": (
        lambda root: rows(root / "t.csv", ["a", "b", "c"], 40),
        "table/csv_simclr", "table", "table_mlp",
    ),
    "series": (
        lambda root: rows(root / "s.csv", ["subject", "x", "y"], 400),
        "series/csv_simclr", "series", "resnet1d",
    ),
}  # fmt: skip


def timed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Replace the clock by one where a sample costs `seconds` per million parameters."""
    sizes: list[int] = []

    def fake(recipe: Recipe) -> float:
        sizes.append(sum(p.numel() for p in recipe.encoder.parameters()))
        return seconds * sizes[-1] / 1e6

    monkeypatch.setattr(budget, "measure", fake)
    free = EvaluationCost(40, 0.0, 0.0, 0.0, ((8, 0.0), (8, 0.0)), page_s=0.0)
    monkeypatch.setattr(budget, "cost_of", lambda recipe: free)
    monkeypatch.setattr(budget, "seconds_since_start", lambda: 0.0)
    monkeypatch.setattr(budget, "_CHOOSING_S", 1e9)  # however busy this machine is
    return sizes


@pytest.mark.parametrize("name", DATA)
def test_a_path_of_each_modality_becomes_its_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, recipe, kind, encoder = DATA[name]
    path = make(tmp_path)
    timed(monkeypatch, 1e9)
    fitted = fit_path(str(path), [], 1.0)
    assert fitted.known and fitted.lines()[0].endswith(f"; recipe {recipe}")
    chosen = fitted.plan.phases[0].config
    assert chosen["data"]["kind"] == kind and str(path) in chosen["data"].values()
    assert chosen["encoder"]["kind"] == encoder and chosen["run"]["epochs"] == 1
    assert chosen["run"]["batch_size"] == 16
    assert Recipe.build(chosen).config() == chosen


@pytest.mark.parametrize("name", DATA)
def test_every_size_of_each_modality_can_be_built_and_much_time_is_for_the_large_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, recipe, kind, _ = DATA[name]
    tried = timed(monkeypatch, 1e-9)
    fitted = fit_path(str(make(tmp_path)), ["run.batch_size=4"], 1e5)
    modality = modality_of(class_of(kind, "Source").modality)
    large = modality.large_recipe
    assert fitted.recipe == (large or recipe) and large in (f"{recipe}_large", "")
    assert len(tried) == len(modality.sizes) + bool(large)
    assert tried == sorted(tried), "from small to large"
    assert tried[0] < 0.5e6 or name == "images with text"
    assert Recipe.build(fitted.plan.phases[0].config).run.epochs == 400


def test_a_few_long_videos_are_cut_into_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1e9)
    videos(tmp_path)  # ten frames at 8 a second
    small = ["data.frames=2", "data.context=2", "data.fps=8"]
    fitted = fit_path(str(tmp_path), small, 1.0)
    assert fitted.plan.phases[0].config["data"]["sampling"] == "clips"
    assert any("of 4 videos" in fact for fact in fitted.known.values())
    whole = fit_path(str(tmp_path), [*small, "data.sampling=middle"], 1.0)
    assert whole.plan.phases[0].config["data"]["sampling"] == "middle"


def epochs_of(fitted: Fitted) -> int:
    return int(fitted.plan.phases[0].config["run"]["epochs"])


def test_the_largest_size_that_leaves_enough_epochs_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(images(tmp_path))
    tried = timed(monkeypatch, 0.1)
    # Of 100 s, 90 s train: 40 samples of the smallest size take 4 s per million parameters, and of
    # the next one, of four times the parameters, the time is for fewer than 60 epochs.
    fitted = fit_path(path, [], 100 / 60)
    small, larger = tried
    assert fitted.plan.phases[0].config["encoder"]["width"] == 16 and larger > 3 * small
    assert epochs_of(fitted) == pytest.approx(90 / (4e-6 * small), rel=0.1)
    tried.clear()
    shorter = fit_path(path, [], 20 / 60)
    assert tried == [small]
    assert epochs_of(shorter) == pytest.approx(18 / (4e-6 * small), rel=0.1)
    longer = fit_path(path, [], 1e4)
    assert longer.recipe == "image/folder_simclr_large"
    config = longer.plan.phases[0].config
    assert config["encoder"]["kind"] == "resnet18" and config["run"]["epochs"] == 400


def test_without_a_budget_it_is_the_large_recipe_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for make, name in ((images, "image/folder_simclr_large"), (captions, "dabs/image_text")):
        root = tmp_path / name.replace("/", "-")
        root.mkdir()
        fitted = fit_path(str(make(root)), [], None)
        assert fitted.recipe == name and not fitted.known and not fitted.chosen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    timed(monkeypatch, 1e-3)
    fitted = fit_path(str(tmp_path / "image-folder_simclr_large"), [], None)
    assert fitted.chosen.startswith("fitted to 10 min: ")


@pytest.mark.parametrize(
    ("cost", "chosen", "seconds"),
    [
        # 150 of 600 seconds are for the evaluation.
        (EvaluationCost(40, 1.0, 0.1, 0.0, ((8, 1.0),), 0.0), {}, 40 + 4 * 5.0),
        (EvaluationCost(40, 1.0, 1.0, 0.0, ((8, 0.0),), 0.0), {"evaluate.seeds": 1}, 40 + 2 * 40),
        (
            EvaluationCost(64_000, 0.005, 0.001, 0.0, ((8, 0.0),), 0.0),
            {"evaluate.seeds": 1, "budget.samples": 8000},
            16_000 * 0.007,
        ),
        # Nothing fits; the evaluation is cut when it runs.
        (
            EvaluationCost(1024, 10.0, 10.0, 0.0, ((8, 0.0),), 0.0),
            {"evaluate.seeds": 1, "budget.samples": 256},
            150.0,
        ),
    ],
)
def test_the_evaluation_is_at_most_a_quarter_and_training_gets_the_rest(
    cost: EvaluationCost,
    chosen: dict[str, int],
    seconds: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = str(images(tmp_path))
    tried = timed(monkeypatch, 0.9)
    monkeypatch.setattr(budget, "cost_of", lambda recipe: cost)
    monkeypatch.setattr(budget, "_MOST_EPOCHS", 10_000)
    fitted = fit_path(path, [], 10.0)
    config = fitted.plan.phases[0].config
    assert seconds <= EVALUATION * 600
    assert config["evaluate"]["seeds"] == chosen.get("evaluate.seeds", 3)
    assert config.get("budget", {}).get("samples") == chosen.get("budget.samples")
    epoch = 0.9 * tried[0] / 1e6 * 40
    assert config["run"]["epochs"] == pytest.approx((600 - seconds) * 0.9 / epoch, rel=0.05)


def test_images_of_16_bits_are_read_as_they_are_unless_a_reader_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1e9)
    for i in range(24):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        pixels = RNG.integers(0, 65536, (40, 40)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    fitted = fit_path(str(tmp_path), [], 1.0)
    chosen = fitted.plan.phases[0].config
    assert chosen["data"]["reader"] is not None and chosen["views"]["policy"]["kind"] == "native"
    assert "read as they are stored (data.reader=null reads 8-bit RGB)" in fitted.lines()[0]
    chosen = fit_path(str(tmp_path), ["data.reader=null"], 1.0).plan.phases[0].config
    assert chosen["data"]["reader"] is None and chosen["views"]["policy"]["kind"] == "simclr"


def test_overrides_win_and_arrays_are_not_enlarged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, 1e-3)
    own = ["run.epochs=7", "run.batch_size=8", "encoder={kind: resnet8, width: 4}"]
    config = fit_path(str(images(tmp_path)), own, 1.0).plan.phases[0].config
    assert (config["run"]["epochs"], config["run"]["batch_size"]) == (7, 8)
    assert config["encoder"]["width"] == 4
    for side, most in ((8, 32), (40, 40), (90, 90), (200, 96)):
        pixels = RNG.integers(0, 255, (20, side, side), dtype=np.uint8)
        np.savez(tmp_path / "x.npz", x=pixels)
        chosen = fit_path(str(tmp_path / "x.npz"), [], 1e4).plan.phases[0].config
        assert chosen["data"]["size"] == most and chosen["encoder"]["kind"] == "resnet18"


def test_a_recipe_keeps_everything_but_its_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1e-3)
    before, after = config(), fit_recipe("image/emoji_simclr", [], 2.0).plan.phases[0].config
    assert after["encoder"]["width"] == 32 and after["run"]["batch_size"] == 256
    samples, cost = 3822, 1e-3 * 0.3097
    assert after["run"]["epochs"] == pytest.approx(0.9 * 120 / (samples * cost), rel=0.2)
    assert before["run"]["epochs"] == 1
    with pytest.raises(ValueError, match="has phases"):
        fit_recipe("audio/speech_bridle", [], 1.0)


def test_steps_are_timed() -> None:
    recipe = Recipe.build(config())
    assert 1e-6 < measure(recipe) < 0.1
    assert recipe.run.batch_size == config()["run"]["batch_size"]


def test_what_was_chosen_runs_again_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos", 32)
    timed(monkeypatch, 1e3)
    small = ["encoder={kind: resnet8, stem: patch, width: 2}", "data.size=16", "run.epochs=2"]
    command = ["pretrain", "photos", *small, "--minutes", "1", "--train-only", "--out"]
    assert run([*command, "first"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "photos: images; recipe image/folder_simclr"
    assert said[1].startswith("fitted to 1 min: ") and "run.batch_size=16" in said[1]
    written = yaml.safe_load(Path("first/recipe.yaml").read_text())
    assert written["run"]["epochs"] == 2 and written["data"]["root"] == "photos"
    assert run(["pretrain", "first/recipe.yaml", "--train-only", "--quiet", "--out", "again"]) == 0
    assert run(["pretrain", "--resume", "--train-only", "--quiet", "--out", "first"]) == 0
    first, again = (load_encoder(name).state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_dry_run_of_a_path_gives_the_facts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "photos")
    timed(monkeypatch, 1e3)
    assert run(["pretrain", "photos", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*FACTS, "photos:", "fitted"]
    assert "40 images" in lines[0] and "10 min" in lines[-1] and "takes longer" in lines[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_budget_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.3); from mezzotint.train.budget import seconds_since_start"
    code += "; print(seconds_since_start())"
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 <= float(said.stdout) <= time.perf_counter() - began + 0.1
