"""The contract of every modality; a new file in the folder is taken in without an edit."""

from pathlib import Path

import pytest
import torch

from mezzotint import modality as package
from mezzotint.data.source import Source
from mezzotint.encoders.timm import TimmEncoder
from mezzotint.encoders.vit import ViT
from mezzotint.modality.modality import Modality, modality_names, modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import read_recipe
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Input

each = pytest.mark.parametrize("name", modality_names())


def example_source(modality: Modality) -> Source:
    source: Source = construct(resolve(modality.example.data, "Source", "data"), "Source", {})
    return source


def test_names_are_those_of_the_files() -> None:
    assert {"image", "audio", "image_text"} <= {*modality_names()}
    assert not {"modality", "patches", "__init__"} & {*modality_names()}
    for name in modality_names():
        assert modality_of(name).name == name and modality_of(name) is modality_of(name)


def test_an_unknown_modality_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="`modality` must be one of audio, image, .* got 'smell'"):
        Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3, "smell")


def test_a_new_modality_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, check, baseline, patches and messages come from its file."""
    (tmp_path / "depth.py").write_text(
        "from mezzotint.modality.modality import Modality\n"
        "from mezzotint.modality.patches import GridPatches\n"
        "class DepthModality(Modality):\n"
        "    plural, axes, has_picture = 'depth maps', ('1', 'height', 'width'), False\n"
        "    def patches(self, input, dim, size):\n"
        "        return GridPatches(input.shape, size.sides((4, 4)), dim)\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "depth" in modality_names() and modality_of("depth").name == "depth"
    input = Input((1, 8, 12), (2.0,), (4.0,), "depth")
    x = input.normalize(input.as_float(torch.full((2, 1, 8, 12), 6.0)))
    assert torch.equal(x, torch.ones_like(x))
    assert modality_of(input).raw_features(x, input).shape == (2, 96)
    assert ViT(input, width=12, depth=1, heads=2)(x).shape == (2, 12)
    with pytest.raises(ValueError, match="takes images, got depth maps of shape"):
        TimmEncoder.require_modality(input)
    with pytest.raises(ValueError, match=r"The shape of depth maps must be \(1, height, width\)"):
        Input((8, 12), (2.0,) * 8, (4.0,) * 8, "depth")
    with pytest.raises(ValueError, match="Depth maps have no pictures"):
        modality_of(input).picture(x[0], input)


@each
def test_wrong_shapes_and_statistics_are_refused(name: str) -> None:
    modality = modality_of(name)
    shape = tuple(range(4, 4 + len(modality.axes)))
    count = 0 if name == "tokens" else shape[0]
    Input(shape, (0.0,) * count, (1.0,) * count, name)
    with pytest.raises(ValueError, match=f"The shape of {modality.plural} must be "):
        Input((*shape, 2), (0.0,) * count, (1.0,) * count, name)
    with pytest.raises(ValueError, match=f"`mean` and `std` must have {count} values"):
        Input(shape, (0.0,) * (count + 1), (1.0,) * (count + 1), name)


@each
def test_shipped_recipes_are_of_this_modality(name: str) -> None:
    modality = modality_of(name)
    assert {modality.recipe, modality.finetune_recipe} <= {*shipped()}
    assert read_recipe(modality.recipe)["data"]["kind"]


@each
def test_a_sample_of_the_example_has_features_and_patches(name: str) -> None:
    modality = modality_of(name)
    source = example_source(modality)
    input = source.input
    assert input.modality == name and len(input.shape) == len(modality.axes)
    assert modality.fits(input, input)
    x = torch.stack([source.read(index)["x"] for index in (0, 1)])
    normalized = input.normalize(input.as_float(x))
    assert normalized.shape == x.shape and normalized.isfinite().all()
    features = modality.raw_features(normalized, input)
    assert features.ndim == 2 and len(features) == 2 and features.dtype == torch.float32
    assert features.isfinite().all()
    patches = modality.patches(input, 12, PatchSize(**modality.example.patches))
    values, positions = patches.split(normalized)
    assert patches.embed(values).shape == (2, patches.count, 12)
    assert patches.vectors(values).shape == (2, patches.count, patches.num_values)
    assert positions.shape[1:] == (patches.count, patches.axes)
    assert patches.position_embedding(12)(positions).shape[1:] == (patches.count, 12)
    assert patches.grid_of(normalized) == patches.grid


@each
def test_handmade_features_are_finite_for_constant_samples_and_few_for_all(name: str) -> None:
    """Their number depends on neither batch nor free axes, and no row on the others."""
    modality = modality_of(name)
    source = example_source(modality)
    input = source.input
    x = torch.stack([source.read(index)["x"] for index in range(4)])
    features = modality.handmade_features(input.prepare(x), input)
    if features is None:
        assert name == "table"  # raw tables are scaled and one-hot already
        return
    assert features.dtype == torch.float32 and features.ndim == 2 and features.isfinite().all()
    assert 16 <= features.shape[1] <= 4096
    assert not torch.equal(features[0], features[1])
    alone = modality.handmade_features(input.prepare(x[2:3]), input)
    assert alone is not None
    torch.testing.assert_close(alone[0], features[2], atol=1e-5, rtol=1e-4)
    for value in (0, 1):
        constant = modality.handmade_features(input.prepare(torch.full_like(x, value)), input)
        assert constant is not None and constant.isfinite().all()
        assert constant.shape == features.shape


@each
def test_a_sample_and_one_that_is_not_finite_have_a_picture(name: str) -> None:
    modality = modality_of(name)
    source = example_source(modality)
    x = source.read(0)["x"]
    if not modality.has_picture:
        with pytest.raises(ValueError, match="have no pictures. Supported: "):
            modality.picture(x, source.input)
        return
    picture = modality.picture(x, source.input)
    assert picture.ndim == 3 and picture.shape[0] in (1, 3)
    if x.is_floating_point() and not modality.has_tokens:
        x = torch.full_like(x, torch.nan)
        x[..., 0] = torch.inf
        assert modality.picture(x, source.input).dtype == torch.uint8
        assert modality.picture(torch.zeros_like(x), source.input).dtype == torch.uint8
