"""Teachers: where they come from, what they see, and what cannot teach."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.pointnet import PointNet
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.encoders.saving import save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.distill import Distill
from mezzotint.methods.ssql import SSQL
from mezzotint.methods.teachers import FeatureCache, Teachers, converted, parts_of
from mezzotint.types import Input
from tests.methods.test_distill import STUDENT, TEACHER, saved, student, views
from tests.onnx_graphs import random, residual, save


@pytest.mark.parametrize(
    "teacher",
    [Input((1, 32, 32), (0.1,), (0.3,)), Input((3, 8, 8), (0.5,) * 3, (0.2,) * 3)],
    ids=["gray and larger", "smaller"],
)
def test_size_and_channels_of_a_teacher_may_differ(teacher: Input, tmp_path: Path) -> None:
    pixels = torch.rand(4, 3, 16, 16)
    plain = pixels.mean(dim=1, keepdim=True) if teacher.shape[0] == 1 else pixels
    size = teacher.shape[1:]
    expected = teacher.normalize(interpolate(plain, size=size, mode="bilinear", antialias=True))
    assert torch.allclose(
        converted(STUDENT.normalize(pixels), STUDENT, teacher), expected, atol=1e-5
    )
    method = Distill(student(), teachers=[saved(tmp_path, teacher)])
    assert torch.isfinite(method(views()).loss)


def test_a_small_crop_is_resized_for_a_teacher_of_the_same_input(tmp_path: Path) -> None:
    crop = torch.randn(2, 3, 8, 8)
    assert converted(crop, TEACHER, TEACHER).shape == (2, 3, 16, 16)


def hub(folder: Path, **changes: object) -> tuple[str, torch.nn.Module]:
    """A folder as `timm.save_for_hf` writes it, of a network with 5 classes."""
    theirs = timm.create_model("resnet10t", num_classes=5).eval()
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    stated = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 5}
    described = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": stated, **changes}
    (folder / "config.json").write_text(json.dumps(described))
    return str(folder), theirs


def test_a_hub_folder_of_timm_teaches_as_its_network(tmp_path: Path) -> None:
    path, theirs = hub(tmp_path / "hub")
    pixels = torch.rand(2, 3, 16, 16)
    teachers = Teachers([path], STUDENT, dense=True)
    resized = interpolate(pixels, size=64, mode="bilinear", antialias=True)
    with torch.no_grad():
        maps = theirs.forward_features((resized - 0.5) / 0.25)  # type: ignore[operator]
    features, found = parts_of(teachers(STUDENT.normalize(pixels)), teachers.dims, teachers.maps)
    assert teachers.dims == [512] and teachers.maps == [(512, 2, 2)]
    assert torch.allclose(features, maps.mean(dim=(2, 3)), atol=1e-4)
    assert torch.allclose(found, maps.flatten(2), atol=1e-4)


def test_tokens_are_a_map_of_the_patches(tmp_path: Path) -> None:
    """A pixel that changes moves the tokens of a ViT without attention at its own patch."""
    vit = ViT(TEACHER, width=8, depth=1, heads=1, patch=4, pool="cls")
    attention: Any = vit.get_submodule("blocks.0.attn.proj")
    torch.nn.init.zeros_(attention.weight)
    save_encoder(vit, tmp_path)
    teachers = Teachers([str(tmp_path)], TEACHER, dense=True)
    x = torch.randn(1, 3, 16, 16)
    other = x.clone()
    other[:, :, 5, 14] += 1.0
    (_, a), (_, b) = (parts_of(teachers(v), teachers.dims, teachers.maps) for v in (x, other))
    changed = (a != b).any(dim=1)[0].nonzero().flatten().tolist()
    assert teachers.maps == [(8, 4, 4)] and changed == [1 * 4 + 3]


def test_a_cache_computes_unknown_rows_alone_in_passes_of_one_size() -> None:
    cache, x, asked = FeatureCache(), torch.randn(5, 3, 4, 4), []

    def teachers(rows: torch.Tensor) -> torch.Tensor:
        asked.append((len(rows), len({row.tobytes() for row in rows.numpy()})))
        return rows.flatten(1).exp()

    ids = torch.tensor([7, 3, 9, 1, 4])
    first = cache(0, ids[:3], x[:3], teachers)
    assert torch.equal(first, x[:3].flatten(1).exp())
    assert torch.equal(cache(0, ids, x, teachers), x.flatten(1).exp())
    order = torch.tensor([4, 0, 2])
    assert torch.equal(cache(0, ids[order], x[order], teachers), x[order].flatten(1).exp())
    assert asked == [(32, 3), (32, 5)]
    cache(1, ids, x + 1.0, teachers)  # another view has entries of its own
    with pytest.raises(ValueError, match="and view 1 of sample 7 is not. Put the views into"):
        cache(0, ids, x.flip(3), teachers)


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    def load(path: Path | str, input: Input = STUDENT, dense: bool = False) -> None:
        Teachers([str(path)], input, dense=dense)

    with pytest.raises(ValueError, match="`method.teachers` must name an encoder or more"):
        Teachers([], STUDENT)
    with pytest.raises(ValueError, match="has no encoder.json"):
        load(tmp_path)
    series = Input((3, 64), (0.0,) * 3, (1.0,) * 3, modality="series")
    save_encoder(ResNet1D(series, width=4), tmp_path / "series")
    with pytest.raises(ValueError, match="takes time series, and the data has images"):
        load(tmp_path / "series")
    with pytest.raises(ValueError, match=r"takes samples of shape \[3, 64\], and the data has"):
        load(tmp_path / "series", Input((2, 64), (0.0,) * 2, (1.0,) * 2, modality="series"))
    path, _ = hub(tmp_path / "hub", architecture="resnet11t")
    with pytest.raises(ValueError, match="`method.teachers`: .*must be a network of timm"):
        load(path)
    with pytest.raises(ValueError, match="is a network of timm, which takes images, and the data"):
        load(path, series)
    (tmp_path / "hub/config.json").write_text('{"architecture": "resnet10t"}')
    with pytest.raises(ValueError, match="a config.json with `architecture`, input_size, mean, st"):
        load(path)


def test_an_onnx_file_of_another_project_gets_its_size_and_channels(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Flatten", ["x"], ["y"], axis=1)]
    file = save(tmp_path / "flat.onnx", nodes, {}, ["batch", 3, 16, 16])
    gray = Input((1, 32, 32), (0.25,), (0.5,))
    teachers = Teachers([str(file)], gray)
    x = torch.randn(2, 1, 32, 32)
    expected = interpolate(x, size=(16, 16), mode="bilinear", antialias=True)
    expected = expected.expand(2, 3, 16, 16).flatten(1)
    torch.testing.assert_close(teachers(x), expected)


def test_samples_must_mean_what_they_did_for_the_teacher(tmp_path: Path) -> None:
    class Described(EmbeddedImages):
        def preprocessing(self) -> dict[str, Any]:
            return {"columns": [{"name": "b"}, {"name": "a"}], "front_end": {"hop": 320}}

    source = Described(name="digits")
    columns = {"columns": [{"name": "a"}, {"name": "b"}]}
    ranged = dataclasses.replace(TEACHER, range=((0.0, 4095.0),) * TEACHER.shape[0])
    for preprocessing, input, message in (
        ({}, TEACHER, ""),
        (columns, TEACHER, "takes the columns a, b, in this order.*Set data.fitted="),
        ({"front_end": {"hop": 160}}, TEACHER, "read in another way .* 320 instead of 160"),
        ({}, ranged, r"\(8 bits instead of the range \[\[0.0, 4095.0\]\]\)"),
    ):
        teacher = resnet18(input, stem="small", width=2)
        teacher.preprocessing = preprocessing
        save_encoder(teacher, tmp_path / "teacher")
        base = Distill(student(), teachers=[str(tmp_path / "teacher")], hidden_dim=16)
        for method in (base, SSQL(base.encoder, base=base)):
            if message:
                with pytest.raises(ValueError, match=message):
                    method.require_source(source)
            else:
                method.require_source(source)


def test_a_teacher_without_features_is_refused(tmp_path: Path) -> None:
    """An ONNX file whose output is a map, and teachers and students without a map for `dense`."""
    from onnx import helper

    node = helper.make_node("Conv", ["x", "w"], ["y"])
    weight = {"w": random(8, 3, 3, 3)}
    file = save(tmp_path / "map.onnx", [node], weight, ["batch", 3, 16, 16])
    with pytest.raises(ValueError, match=r"`method.teachers`: Output 'y' .* has the shape \['bat"):
        Teachers([str(file)], STUDENT)
    pooled = residual(tmp_path / "pooled.onnx")
    small = Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    Teachers([str(pooled)], small)
    last = save(tmp_path / "last.onnx", [node], {"w": random(8, 8, 3, 3)}, ["batch", 8, 8, 3])
    with pytest.raises(ValueError, match=r"It must take floats \[batch, 3, 8, 8\]"):
        Teachers([str(last)], small)  # channels are last
    with pytest.raises(ValueError, match="`method.dense` with the teacher .*: onnx has no feature"):
        Teachers([str(pooled)], small, dense=True)
    points = PointNet(Input((3, 16), (0.0,) * 3, (1.0,) * 3, modality="points"), width=4)
    save_encoder(points, tmp_path / "points")
    with pytest.raises(ValueError, match="pointnet has no feature map or patch tokens of a grid"):
        Distill(points, teachers=[str(tmp_path / "points")], dense=1.0)
