"""The public face: names that a researcher imports from the package and from its rooms."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import mezzotint
from mezzotint.recipe.signatures import index

ROOMS = {
    "augment": ("Transform", "ViewGenerator"),
    "codebooks": ("Codebook",),
    "data": ("Source",),
    "detection": (),
    "encoders": ("Encoder",),
    "evaluation": ("Probe",),
    "interop": (),
    "methods": ("Method",),
    "optim": ("Optimizer", "Schedule"),
    "quant": ("Observer", "Quantizer"),
    "recipe": (),
    "runs": (),
    "train": (),
}


@pytest.mark.parametrize("room", ROOMS)
def test_every_component_of_a_room_is_public(room: str) -> None:
    """A new class is exported where its family is, so that nobody has to know its file."""
    module = importlib.import_module(f"mezzotint.{room}")
    modules = {info.name for info in pkgutil.iter_modules(module.__path__)}
    components = {
        entry.name
        for family in ROOMS[room]
        for entry in index().members(family).values()
        if entry.module.startswith(f"mezzotint.{room}.") and entry.name not in modules
    }
    assert components | set(ROOMS[room]) <= set(dir(module))
    for name in dir(module):
        assert getattr(module, name).__name__ == name


@pytest.mark.parametrize("room", ROOMS)
def test_an_unknown_name_is_an_attribute_error(room: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = importlib.import_module(f"mezzotint.{room}").Nothing


def test_names_of_the_package() -> None:
    names = set("randomized_quantize RandomizedQuantization Recipe pretrain evaluate".split())
    assert set(dir(mezzotint)) >= names | {"load_encoder", "save_encoder"}
    for name in dir(mezzotint):
        assert callable(getattr(mezzotint, name))


def test_evaluate_is_a_function_whatever_was_imported_before() -> None:
    import mezzotint.evaluation.knn  # noqa: F401 - the point of the test

    with pytest.raises(ValueError, match="encoder.json"):
        mezzotint.evaluate("nowhere")


@pytest.mark.parametrize("room", ["", *(f".{room}" for room in ROOMS)])
def test_a_room_is_entered_without_torch(room: str) -> None:
    code = f"import sys, mezzotint{room}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
