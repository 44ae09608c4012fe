"""Bundles of stopped runs: what is in them, and that damaged and foreign ones are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mezzotint.data.loader import BatchPlan
from mezzotint.files import write_json
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import NotFinite
from mezzotint.train.loop import pretrain
from mezzotint.train.postmortem import read_bundle
from tests.tiny import config


def diverging(lr: float, **run: Any) -> Recipe:
    """BYOL on digits whose first update is far too large."""
    settings = config("byol", epochs=2, **run)
    settings |= {"optimizer": {"kind": "sgd", "lr": lr}, "schedule": {"kind": "cosine"}}
    settings["encoder"] = {"kind": "resnet8", "stem": "small", "width": 2}
    return Recipe.build(resolve_recipe(settings))


def stopped(out: Path, lr: float, **run: Any) -> tuple[NotFinite, Path]:
    """Run until the guard stops it; return the error and the bundle."""
    with pytest.raises(NotFinite) as caught:
        pretrain(diverging(lr, **run), out, progress="quiet")
    return caught.value, next((out / "postmortem").iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("stopped") / "run", 1e38)[1]


def test_a_bundle_has_step_samples_state_and_message(tmp_path: Path) -> None:
    error, folder = stopped(tmp_path / "run", 1e38)
    bundle = read_bundle(folder)
    assert bundle.step == bundle.start == 6 and folder.name == "step-00000006"
    assert bundle.message == str(error) and "at step 6" in bundle.message
    assert (bundle.loss, bundle.grad_norm) == ("nan", "nan")
    plan = BatchPlan.of(diverging(1.0).data, 256, 0, 0, 1)
    assert bundle.samples == tuple(plan.indices(6).tolist())
    assert any(f"mezzotint replay {folder}" in note for note in error.__notes__)
    own, _ = CheckpointStore(tmp_path / "run/checkpoints").latest()
    kept, _ = CheckpointStore(folder / "checkpoints").latest()
    assert own is not None and kept is not None and own.step == kept.step
    assert own.model.keys() == kept.model.keys() and own.state == kept.state
    assert all(own.model[name].equal(kept.model[name]) for name in own.model)


def test_a_run_that_stops_in_its_first_step_has_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=0:nan")
    _, folder = stopped(tmp_path / "run", 0.1, guard={"action": "abort"})
    assert (bundle := read_bundle(folder)).step == bundle.start == 0
    assert (folder / "checkpoints/step-00000000/model.safetensors").is_file()


def test_weights_that_are_not_finite_lead_to_the_checkpoint_before(tmp_path: Path) -> None:
    """The first update makes weights inf: there is no good checkpoint, only the initial weights."""
    _, folder = stopped(tmp_path / "run", 3e38, checkpoints={"every_steps": 1})
    bundle = read_bundle(folder)
    assert bundle.start == 0 < bundle.step and not (folder / "checkpoints").exists()


def test_other_errors_leave_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=1:raise")
    with pytest.raises(RuntimeError, match="fault injected"):
        pretrain(diverging(0.1), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run/postmortem").exists()


def test_a_bundle_is_part_of_the_run_and_goes_with_it(tmp_path: Path) -> None:
    stopped(tmp_path / "run", 1e38)
    pretrain(diverging(0.01), tmp_path / "run", overwrite=True, progress="quiet")
    assert not (tmp_path / "run/postmortem").exists()


def test_any_flipped_byte_is_refused_in_one_sentence(made: Path, tmp_path: Path) -> None:
    files = [path for path in sorted(made.rglob("*")) if path.is_file()]
    assert len(files) == 8
    for number, path in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(made, copy)
        damaged = copy / path.relative_to(made)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 4
        damaged.write_bytes(content)
        with pytest.raises(RecipeError, match=r"^The bundle `.*` is damaged: .*from the run again"):
            read_bundle(copy)


def test_other_folders_and_versions_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no bundle.json, so it is not a bundle"):
        read_bundle(tmp_path)
    shutil.copytree(made, tmp_path / "old")
    content = json.loads((made / "bundle.json").read_text())
    write_json(tmp_path / "old/bundle.json", {**content, "mezzotint": "0.0.1"}, sealed=True)
    with pytest.raises(RecipeError, match="was written by mezzotint 0.0.1, and this is"):
        read_bundle(tmp_path / "old")
    write_json(tmp_path / "old/bundle.json", {"format": 1}, sealed=True)
    with pytest.raises(RecipeError, match="is damaged: 'mezzotint'"):
        read_bundle(tmp_path / "old")
