"""Distillation: losses by hand, teachers of other inputs, and a student that learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate, normalize

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.resnet1d import ResNet1D
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.export.float_formats import write_onnx
from mezzotint.methods.distill import Distill, converted
from mezzotint.methods.ssql import SSQL
from mezzotint.types import Input

STUDENT = Input((3, 16, 16), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
TEACHER = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def saved(path: Path, input: Input = TEACHER, seed: int = 1) -> str:
    torch.manual_seed(seed)
    encoder = resnet18(input, stem="small", width=4)
    with torch.no_grad():  # statistics as of a trained network
        encoder.train()(torch.randn(32, *input.shape))
    return str(save_encoder(encoder, path))


def student(width: int = 2) -> Encoder:
    torch.manual_seed(0)
    return resnet18(STUDENT, stem="small", width=width)


def views(count: int = 2, batch: int = 8) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(2)
    return tuple(torch.randn(batch, 3, 16, 16) for _ in range(count))


def test_the_teachers_features_are_those_of_its_own_normalization(tmp_path: Path) -> None:
    method = Distill(student(), teachers=[saved(tmp_path / "a"), saved(tmp_path / "b", seed=3)])
    pixels = torch.rand(4, 3, 16, 16)
    expected = [load_encoder(tmp_path / name)(TEACHER.normalize(pixels)) for name in "ab"]
    found = method.features(STUDENT.normalize(pixels))
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)


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


def test_losses_are_those_of_their_definitions(tmp_path: Path) -> None:
    path = saved(tmp_path)
    torch.manual_seed(5)
    p, t = torch.randn(6, 32), torch.randn(6, 32)
    cosine = Distill(student(), teachers=[path])._distance(p, t)
    assert cosine == pytest.approx(-float((normalize(p) * normalize(t)).sum(1).mean()), abs=1e-6)
    mse = Distill(student(), teachers=[path], loss="mse")._distance(p, t)

    def standardized(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)

    assert mse == pytest.approx(
        float((standardized(p) - standardized(t)).square().mean()), rel=1e-4
    )
    relational = Distill(student(), teachers=[path], loss="relational", queue_size=10)
    queue = relational.queue
    wanted = (normalize(t) @ queue.T / 0.05).softmax(dim=1)
    expected = cross_entropy(normalize(p) @ queue.T / 0.2, wanted)
    assert relational._distance(p, t) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["cosine", "mse", "relational"])
def test_a_student_comes_closer_to_its_teacher(loss: Any, tmp_path: Path) -> None:
    method = Distill(
        student(8), teachers=[saved(tmp_path)], loss=loss, hidden_dim=64, queue_size=32
    )
    before = {name: p.clone() for name, p in method._teachers[0].state_dict().items()}
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses, cosines = [], []
    for _ in range(25):
        method.before_step()
        step = method(views(1, batch=32))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        method.after_step(0.5)
        losses.append(float(step.loss.detach()))
        cosines.append(float(step.logs["teacher_cosine"]))
    assert losses[-1] < (0.8 * losses[0] if loss == "mse" else losses[1])
    assert loss != "cosine" or cosines[-1] > 0.9
    after = method._teachers[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(name.startswith("_teachers") for name in method.state_dict())


def test_the_queue_holds_the_latest_features_of_the_teacher(tmp_path: Path) -> None:
    method = Distill(student(), teachers=[saved(tmp_path)], loss="relational", queue_size=12)
    x = views(2)
    method.before_step()
    method(x)
    method.after_step(0.1)
    assert torch.allclose(method.queue[:8], normalize(method.features(x[0])), atol=1e-6)
    method(x)
    method.after_step(0.2)
    assert int(method.pointer) == 4
    with pytest.raises(ValueError, match="`method.queue_size` must be at least the global batch"):
        method.require_batch(13)


def test_an_onnx_file_teaches_as_its_encoder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "teacher")
    file = tmp_path / "teacher.onnx"
    write_onnx(load_encoder(folder), file)
    x = views(1)[0]
    found = [Distill(student(), teachers=[path]).features(x) for path in (folder, str(file))]
    assert torch.allclose(found[0], found[1], atol=1e-4)


def test_ssql_trains_a_student_at_low_bits(tmp_path: Path) -> None:
    encoder = student()
    method = SSQL(encoder, base=Distill(encoder, teachers=[saved(tmp_path)], hidden_dim=16))
    from tests.test_contract_methods import make_views

    batch = make_views(2, 8)
    step = method.train()(batch)
    step.loss.backward()
    assert torch.isfinite(step.loss) and "low_bits_loss" in step.logs


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`method.teachers` must name an encoder or more"):
        Distill(student(), teachers=[])
    with pytest.raises(ValueError, match="has no encoder.json"):
        Distill(student(), teachers=[str(tmp_path)])
    series = Input((3, 64), (0.0,) * 3, (1.0,) * 3, modality="series")
    save_encoder(ResNet1D(series), tmp_path / "series")
    with pytest.raises(ValueError, match="takes time series, and the data has images"):
        Distill(student(), teachers=[str(tmp_path / "series")])
    longer = ResNet1D(Input((2, 64), (0.0,) * 2, (1.0,) * 2, modality="series"))
    with pytest.raises(ValueError, match=r"takes samples of shape \[3, 64\], and the data has"):
        Distill(longer, teachers=[str(tmp_path / "series")])
    with pytest.raises(ValueError, match="`method.temperature` must be positive"):
        Distill(student(), teachers=[saved(tmp_path / "a")], temperature=0.0)
