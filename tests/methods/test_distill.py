"""Distillation: losses by hand, teachers of other inputs, and a student that learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import (
    cosine_similarity,
    cross_entropy,
    interpolate,
    layer_norm,
    normalize,
)

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.export.float_formats import write_onnx
from mezzotint.methods.distill import Distill
from mezzotint.methods.ssql import SSQL
from mezzotint.quant.grid import make_grid
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.preview import timed
from mezzotint.train.signals import Interrupted
from mezzotint.types import Input
from tests.tiny import config

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
    found = method.teachers(STUDENT.normalize(pixels))
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)


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
    before = {name: p.clone() for name, p in method.teachers.networks[0].state_dict().items()}
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
    after = method.teachers.networks[0].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.partition(".")[0] for name in method.state_dict()} <= {
        "encoder", "projector", "queue", "pointer",
    }  # fmt: skip


def test_the_queue_holds_the_latest_features_of_the_teacher(tmp_path: Path) -> None:
    method = Distill(student(), teachers=[saved(tmp_path)], loss="relational", queue_size=12)
    x = views(2)
    method.before_step()
    method(x)
    method.after_step(0.1)
    assert torch.allclose(method.queue[:8], normalize(method.teachers(x[0])), atol=1e-6)
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
    found = [Distill(student(), teachers=[path]).teachers(x) for path in (folder, str(file))]
    assert torch.allclose(found[0], found[1], atol=1e-4)


def test_ssql_trains_a_student_at_low_bits(tmp_path: Path) -> None:
    encoder = student()
    method = SSQL(encoder, base=Distill(encoder, teachers=[saved(tmp_path)], hidden_dim=16))
    from tests.test_contract_methods import make_views

    batch = make_views(2, 8)
    step = method.train()(batch)
    step.loss.backward()
    assert torch.isfinite(step.loss) and "low_bits_loss" in step.logs


@pytest.mark.parametrize("loss", ["cosine", "mse", "relational"])
def test_dense_compares_every_position(loss: Any, tmp_path: Path) -> None:
    """Written out position by position; the teacher's map has another size and other channels."""
    teacher = saved(tmp_path, Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3))
    method = Distill(student(), teachers=[teacher], loss=loss, dense=0.7, queue_size=10).eval()
    assert method.maps == [(32, 4, 4)]
    x = views(1)
    t = method.targets(x_of(x), [])[0]
    with torch.no_grad():
        _, (p,) = method.online(x_of(x))
        features, own = method.encoder.features_and_map(x[0])
        mine = method.map_heads[0](interpolate(own, size=(4, 4), mode="bilinear"))
        whole = load_encoder(teacher)
        resized = interpolate(x[0] * deviation(STUDENT) + center(STUDENT), 32, mode="bilinear")
        theirs = whole.feature_map(TEACHER.normalize(resized))  # type: ignore[operator]
    assert own.shape[2:] == (2, 2) and torch.equal(features, method.encoder(x[0]))
    assert torch.allclose(p[:, 32:], mine.flatten(1), atol=1e-5)
    assert torch.allclose(t[:, 32:], theirs.flatten(1), atol=1e-4)
    terms = []
    for row, column in ((r, c) for r in range(4) for c in range(4)):
        a, b = mine[:, :, row, column], theirs[:, :, row, column]
        if loss == "mse":
            a, b = (layer_norm(v, v.shape[1:]) for v in (a, b))
            terms.append((a - b).square().mean())
        else:
            terms.append(-cosine_similarity(a, b).mean())
    alone = Distill(student(), teachers=[teacher], loss=loss, queue_size=10)
    if loss == "relational":
        alone.queue.copy_(method.queue)
    expected = alone._distance(p[:, :32], t[:, :32]) + 0.7 * torch.stack(terms).mean()
    assert method._distance(p, t) == pytest.approx(float(expected), rel=1e-3)
    step = method(x)
    step.loss.backward()
    assert "dense_cosine" in step.logs and method.map_heads[0].weight.grad is not None


def x_of(tensors: tuple[torch.Tensor, ...]) -> Any:
    from mezzotint.methods.method import views_of

    return views_of(tensors)


def center(input: Input) -> torch.Tensor:
    return torch.tensor(input.mean).view(-1, 1, 1)


def deviation(input: Input) -> torch.Tensor:
    return torch.tensor(input.std).view(-1, 1, 1)


@pytest.mark.parametrize("loss", ["cosine", "mse"])
def test_squat_rounds_both_sides_to_the_students_grid(loss: Any, tmp_path: Path) -> None:
    method = Distill(student(), teachers=[saved(tmp_path)], loss=loss, dense=1.0, squat=True)
    torch.manual_seed(4)
    count = 32 + 32 * 2 * 2
    p, pq, t = (torch.randn(6, count) * scale for scale in (1.0, 1.2, 5.0))
    pq.requires_grad_()
    bits = torch.tensor(2.0)
    (found,), targets = method.on_grid([pq], {0: t}, [p], bits)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        x = x[:, :32]
        if loss == "cosine":
            return normalize(x)
        return (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)

    own = scaled(p)
    grid = make_grid("ssql_asymmetric", own.min(), own.max(), bits)
    assert torch.allclose(found[:, :32], grid.quantize(scaled(pq)), atol=1e-4)
    assert torch.allclose(targets[0][:, :32], grid.quantize(scaled(t)), atol=1e-4)
    assert len(targets[0][:, :32].unique()) <= 4 and len(targets[0][:, 32:].unique()) <= 4
    found.sum().backward()
    assert pq.grad is not None and bool((pq.grad != 0).any())
    # The teacher's features are within reach: equal sides have no distance.
    (same,), reached = method.on_grid([t], {0: t}, [p], bits)
    floor = -2.0 if loss == "cosine" else 0.0
    assert method._distance(same, reached[0]) == pytest.approx(floor, abs=1e-5)
    plain = Distill(student(), teachers=[saved(tmp_path)])
    assert plain.on_grid([pq], {0: t}, [p], bits) == ([pq], {0: t})


def test_squat_acts_in_the_pass_at_low_bits_alone(tmp_path: Path) -> None:
    from tests.test_contract_methods import make_views

    path, steps = saved(tmp_path), []
    for squat in (False, True):
        encoder = student()
        base = Distill(encoder, teachers=[path], hidden_dim=16, squat=squat)
        torch.manual_seed(7)
        for parameter in base.projector.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        method = SSQL(encoder, base=base, weight_bits=(2, 2), activation_bits=(4, 4))
        steps.append(method.train()(make_views(2, 8)).logs)
    assert steps[0]["float_loss"] == steps[1]["float_loss"]
    assert steps[0]["low_bits_loss"] != steps[1]["low_bits_loss"]
    with pytest.raises(ValueError, match="`method.squat` rounds features to the grid of a student"):
        Distill(student(), teachers=[path], squat=True)(views())


def recipe(teacher: str, generator: dict[str, Any], **method: Any) -> Recipe:
    plain = config()
    plain["views"] = generator
    plain["method"] = {
        "kind": "distill", "teachers": [teacher], "hidden_dim": 16, "queue_size": 600, **method,
    }  # fmt: skip
    plain["run"] |= {"epochs": 3}
    return Recipe.build(resolve_recipe(plain))


WHOLE = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
FIXED = {"kind": "one_view", "crop": WHOLE, "flip": 0.0}
RANDOM = {"kind": "two_views", "crop": {"scale": [0.4, 1.0]}}


@pytest.fixture(scope="module")
def of_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("digits"), Recipe.build(config()).data.input)


@pytest.mark.parametrize(
    ("generator", "keys"),
    [
        (FIXED, {"dense": 1.0}),
        ({"kind": "clean_target", "student": RANDOM}, {"loss": "relational"}),
    ],
    ids=["fixed views", "clean samples"],
)
def test_a_cache_changes_no_bit_and_a_run_goes_on_with_it(
    generator: dict[str, Any], keys: dict[str, Any], of_digits: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def losses(name: str, cache: bool, resume: bool = False) -> list[float]:
        made = recipe(of_digits, generator, cache=cache, **keys)
        run = pretrain(made, tmp_path / name, progress="quiet", resume=resume)
        assert isinstance(made.method, Distill)
        assert (made.method.cache is not None) == cache
        return [line["loss"] for line in read_metrics(run / "metrics.jsonl")]

    plain = losses("plain", cache=False)
    assert len(plain) == 21 and losses("cached", cache=True) == plain
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=11:sigterm")
    with pytest.raises(Interrupted):
        losses("resumed", cache=True)
    monkeypatch.delenv("MEZZOTINT_FAULT")
    assert losses("resumed", cache=True, resume=True) == plain


def test_a_cached_teacher_runs_for_new_views_only(of_digits: str) -> None:
    method = recipe(of_digits, FIXED, cache=True).method
    assert isinstance(method, Distill)
    seen: list[int] = []
    method.teachers.networks[0].register_forward_hook(lambda _, x, y: seen.append(len(x[0])))
    x = torch.randn(4, 1, 8, 8)
    for _ in range(2):
        method(x)
    assert seen == [32]  # the size of a pass whose rows are kept
    with pytest.raises(ValueError, match="view 1 of sample 2 is not"):
        method(torch.cat([x[:2], x[:1], x[3:]]))


def test_a_dry_run_times_the_teacher_once_a_sample(of_digits: str) -> None:
    made = recipe(of_digits, FIXED, cache=True)
    assert isinstance(made.method, Distill)
    passes: list[int] = []
    made.method.teachers.networks[0].register_forward_hook(lambda _, x, y: passes.append(len(y)))
    found = timed(made, 32, 3)
    assert len(passes) == found["steps"] == 3 and found["once"] >= 0.0
    assert timed(recipe(of_digits, FIXED), 32, 3)["once"] == 0.0


def test_what_does_not_go_together_is_refused_before_a_run(of_digits: str) -> None:
    with pytest.raises(
        ValueError, match="`method.cache` needs teachers that see the same in every"
    ):
        recipe(of_digits, RANDOM, cache=True)
    with pytest.raises(ValueError, match="`method.dense` needs teachers that see the student's"):
        recipe(of_digits, {"kind": "clean_target", "student": RANDOM}, dense=1.0)
    with pytest.raises(ValueError, match="`method.squat` rounds features to the grid of a student"):
        recipe(of_digits, RANDOM, squat=True)
    with pytest.raises(ValueError, match="`method.dense` must be 0 or more, got -1"):
        Distill(student(), teachers=[of_digits], dense=-1.0)
    with pytest.raises(ValueError, match="`method.temperature` must be positive"):
        Distill(student(), teachers=[of_digits], temperature=0.0)
