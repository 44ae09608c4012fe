"""Values of BRIDLE's and BYOL-A's published code, pinned where our recipes say that they follow it.

Sources: main_finetune.py, dataset.py and the submit_*.sh scripts of BRIDLE (github.com/
HoangNguyenM/bridle, c83d1ac); config.yaml, config_v2.yaml, train_v2.py and models.py of BYOL-A
(github.com/nttcslab/byol-a).
"""

from typing import Any

import pytest

from mezzotint.recipe.reading import read_raw, shipped
from mezzotint.recipe.recipe import Plan, read_recipe

AUDIO = ("audioset_vit", "audioset20k_vit", "esc50_vit")
PROBES = ("linear_audioset_vit", "linear_audioset20k_vit")


def header(name: str) -> str:
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", AUDIO + PROBES)
def test_every_audio_fine_tuning_and_probe_has_gain_masks_and_mixup(name: str) -> None:
    """0.5 + Beta(10, 10) on the waveform, masks of 48 mels and 192 frames of raw 0, mixup 0.5."""
    recipe = read_recipe(f"supervised/{name}")
    gain, masks = recipe["views"]["transforms"]
    assert (gain["kind"], gain["beta"]) == ("gain", 10.0)
    assert masks == {
        "kind": "spec_augment", "frequency": 48, "time": 192, "masks": 1, "fill": 0.0,
    }  # fmt: skip
    mixing = recipe["method"]["mixing"]
    assert (mixing["mixup"], mixing["p"], mixing["per_sample"]) == (10.0, 0.5, True)
    assert recipe["method"]["loss"] == "binary"
    # Patches are dropped in fine-tuning alone.
    drop = recipe["method"]["drop"]
    assert (drop or {}).get("ratios") == (None if name in PROBES else [0.2, 0.2])


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("audio/bridle_esc50", -6.6268077, 5.358466),
        ("audio/bridle_audioset", -4.4446096, 3.3216383),
        ("audio/bridle_audioset_published", -4.4446096, 3.3216383),
        ("audio/bridle_joint_audioset_published", -4.4446096, 3.3216383),
        ("supervised/esc50_vit", -6.6268077, 5.358466),
        ("supervised/audioset_vit", -4.4446096, 3.3216383),
    ],
)
def test_statistics_are_divided_by_twice_the_published_std(
    name: str, mean: float, std: float
) -> None:
    data = read_recipe(name)["data"]
    data = data.get("source", data)
    assert (data["mean"], data["std"]) == (mean, pytest.approx(2 * std, abs=1e-9))


@pytest.mark.parametrize(
    "name", [n for n in shipped() if n.startswith("audio/bridle_") and "speech" not in n]
)
def test_audio_pretraining_has_gain_and_full_precision(name: str) -> None:
    for phase in Plan.of(read_raw(name)).phases:
        (gain,) = phase.config["views"]["transforms"]
        assert (gain["kind"], gain["beta"]) == ("gain", 10.0)
        assert phase.config["run"]["compute"]["precision"] == "fp32"


def test_published_bridle_on_audioset() -> None:
    first, second, third = (
        phase.config for phase in Plan.of(read_raw("audio/bridle_audioset_published")).phases
    )
    lengths = [(p["run"]["epochs"], p["schedule"]["warmup_epochs"]) for p in (first, second, third)]
    assert lengths == [(140, 10), (31, 2), (140, 10)]
    assert [p["optimizer"]["lr"] for p in (first, second, third)] == [5e-4, 2e-4, 5e-4]
    for phase in (first, second, third):
        codebook = phase["method"]["codebook"]
        assert phase["run"]["batch_size"] == 1024 and phase["encoder"]["pool"] == "patches"
        assert codebook["residual"] == "bridle" and codebook["commitment"] == 0.25
        assert (codebook["num_levels"], codebook["num_codes"], codebook["dim"]) == (4, 256, 256)
        averages = codebook["ema"]
        assert (averages["rule"], averages["decay"]) == ("norm", 0.99)
        assert (averages["renormalize"], averages["expire_below"]) == (False, 0.0)
    cold = first["method"]["tokenizer"]
    assert (cold["positions"], cold["normalize"]) == (True, False)
    assert first["method"]["decoder"] == {
        "width": 512, "depth": 16, "heads": 16, "window": 4, "shift": [0, 2],
    }  # fmt: skip
    assert first["method"]["codes_per_level"] == third["method"]["codes_per_level"] == 2
    assert first["method"]["mask"]["ratio"] == 0.8
    assert second["method"]["center"] is False and second["method"]["estimator_depth"] == 3
    for phase in (second, third):
        assert phase["method"]["tokenizer"]["normalize"] is False


def test_published_bridle_on_images_and_joint() -> None:
    phases = [p.config for p in Plan.of(read_raw("image/bridle_imagenet_published")).phases]
    assert [p["run"]["epochs"] for p in phases] == [200, 50, 200]
    assert all(p["run"]["compute"]["precision"] == "fp16" for p in phases)
    assert all(p["method"]["codebook"]["init"] == "kmeans" for p in phases)
    assert phases[0]["method"]["decoder"]["window"] == 0 and phases[0]["views"]["flip"] == 0.5
    joint = read_recipe("audio/bridle_joint_audioset_published")["method"]
    assert (joint["every"], joint["weight"], joint["center"]) == (4, 0.2, False)


@pytest.mark.parametrize("name", [n for n in shipped() if n.endswith("_published")])
def test_a_published_recipe_has_an_improved_one_and_both_name_the_differences(name: str) -> None:
    improved = name.removesuffix("_published")
    assert "# differs" in header(name) and f"# improved   {improved}" in header(name)
    assert name in header(improved) and "# differs" in header(improved)
    assert "# ours" in header(improved)


def test_byol_a_of_both_versions() -> None:
    first, second = read_recipe("audio/byol_a_audioset"), read_recipe("audio/byol_a_v2_audioset")
    assert (first["optimizer"]["lr"], second["optimizer"]["lr"]) == (3e-4, 1e-4)
    assert (first["views"]["mixup"], second["views"]["mixup"]) == (0.4, 0.2)
    assert first["views"]["fader"] is None and second["views"]["fader"]["gain"] == 1.0
    encoder: dict[str, Any] = second["encoder"]
    assert (encoder["dim"], encoder["hidden"], encoder["blocks"]) == (3072, 2048, 2)
    assert encoder["join"] and not first["encoder"]["join"]
    # librosa's filters: those of the published weights (first), of nnAudio's default (second)
    assert first["data"]["front_end"] == second["data"]["front_end"] == "byol_a"
    assert "front_end=byol_a_htk" in header("audio/byol_a_audioset")
