"""MoCo: loss against a naive one, the queue, and the heads of the four methods."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet50
from mezzotint.methods.method import cosine_momentum
from mezzotint.methods.moco import MoCo, queue_contrast
from mezzotint.methods.ssql import SSQL
from mezzotint.seeding import Draws, key_of
from mezzotint.train.settings import Run
from mezzotint.types import Input, Views

INPUT = Input((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Flat(Encoder):
    """One linear layer on pixels."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=12)
        self.linear = nn.Linear(192, 12)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x.flatten(1)))


def moco(**keywords: object) -> MoCo:
    torch.manual_seed(0)
    return MoCo(Flat(), **{"hidden_dim": 16, "dim": 8, "queue_size": 10} | keywords)  # type: ignore[arg-type]


def views(step: int = 0, batch: int = 4) -> Views:
    generator = torch.Generator().manual_seed(step)
    x = tuple(torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(2))
    return Views(x, ("global", "global"), Draws(torch.arange(batch), key_of(0, step)))


def test_loss_equals_the_naive_one() -> None:
    q, k, queue = torch.randn(5, 8), torch.randn(5, 8), normalize(torch.randn(7, 8), dim=1)
    found, accuracy = queue_contrast(q, k, queue, 0.2)
    total, hits = 0.0, 0
    for row in range(5):
        a, b = q[row] / q[row].norm(), k[row] / k[row].norm()
        positive, negatives = a @ b / 0.2, torch.stack([a @ n / 0.2 for n in queue])
        total -= float(positive - torch.cat([positive.view(1), negatives]).logsumexp(0))
        hits += int(positive > negatives.max())
    assert float(found) == pytest.approx(total / 5, rel=1e-5)
    assert float(accuracy) == pytest.approx(hits / 5)


def test_keys_get_no_gradient() -> None:
    k = torch.randn(3, 8, requires_grad=True)
    loss, _ = queue_contrast(
        torch.randn(3, 8, requires_grad=True), k, normalize(torch.randn(5, 8), dim=1), 0.2
    )
    loss.backward()
    assert k.grad is None


def test_symmetric_loss_is_the_sum_and_asymmetric_loss_is_the_first_term() -> None:
    both, one = moco(symmetric=True), moco()
    v = views()
    swapped = Views((v.x[1], v.x[0]), v.tags, v.draws)
    other = moco()
    torch.testing.assert_close(both(v).loss, one(v).loss + other(swapped).loss)


def test_queue_wraps_and_its_size_need_not_be_a_multiple() -> None:
    method = moco()
    start = method.queue.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(10))
    keys = [torch.randn(4, 8) for _ in range(3)]
    for part in keys:
        method.enqueue(part)
    assert int(method.pointer) == 2
    expected = torch.cat([normalize(part, dim=1) for part in keys])
    torch.testing.assert_close(method.queue[2:10], expected[2:10])
    torch.testing.assert_close(method.queue[0:2], expected[10:12])


def test_keys_enter_after_the_step_and_only_then() -> None:
    method = moco()
    before = method.queue.clone()
    method(views())
    assert torch.equal(method.queue, before)
    method.after_step(0.1)
    assert int(method.pointer) == 4 and not torch.equal(method.queue, before)


def test_keys_of_a_step_that_was_left_out_are_dropped() -> None:
    method = moco()
    method.before_step()
    method(views(0))
    method.before_step()
    method(views(1))
    method.after_step(0.1)
    assert int(method.pointer) == 4


def test_micro_batches_fill_the_queue_as_one_batch_does() -> None:
    whole, parts = moco(), moco()
    v = views()
    whole(v)
    for rows in (slice(0, 2), slice(2, 4)):
        parts(Views(tuple(x[rows] for x in v.x), v.tags, Draws(v.draws.ids[rows], v.draws.key)))
    whole.after_step(0.1)
    parts.after_step(0.1)
    torch.testing.assert_close(parts.queue, whole.queue)


def test_in_both_directions_each_view_enters_about_half_of_the_time() -> None:
    method = moco(symmetric=True)
    second = 0
    for step in range(40):
        method(views(step))
        key = normalize(method._fresh[0][1], dim=1)
        place = int(method.pointer)
        method.after_step(0.1)
        second += int(torch.allclose(method.queue[place], key[0]))
    assert 10 <= second <= 30


def test_a_queue_smaller_than_the_batch_is_refused_before_the_first_step() -> None:
    method = moco(queue_size=3)
    for refusing in (method, SSQL(method.encoder, base=method)):
        with pytest.raises(
            ValueError,
            match="queue_size` must be at least the global batch size of 4, got 3",
        ):
            Run(batch_size=4).require_accumulable(refusing, 1)
    Run(batch_size=3).require_accumulable(method, 1)
    method(views())
    with pytest.raises(ValueError, match="at least the global batch size of 4, got 3"):
        method.after_step(0.1)


@pytest.mark.parametrize(
    "keywords, online, target",
    [
        ({"head": "mlp", "hidden_dim": 2048, "dim": 128}, 27.97, 27.97),
        ({"head": "byol", "hidden_dim": 4096, "dim": 256}, 35.07, 32.96),
        ({"head": "symmetric", "hidden_dim": 4096, "dim": 256}, 35.07, 35.07),
    ],
)
def test_parameter_counts_are_those_of_the_authors(
    keywords: dict[str, object], online: float, target: float
) -> None:
    """Millions, backbone and head (revisitAIRL, parameter counts of the three heads)."""
    with torch.device("meta"):
        method = MoCo(
            resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3)),
            queue_size=8,
            **keywords,  # type: ignore[arg-type]
        )

    def millions(*modules: nn.Module) -> float:
        return sum(p.numel() for m in modules for p in m.parameters()) / 1e6

    assert millions(method.encoder, method.projector, method.predictor) == pytest.approx(
        online, abs=0.01
    )
    assert millions(method.key_encoder, method.key_projector) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("progress, expected", [(0.25, 0.9914645), (0.5, 0.995), (0.75, 0.9985355)])
def test_momentum_schedule_has_the_authors_values(progress: float, expected: float) -> None:
    assert cosine_momentum(0.99, progress) == pytest.approx(expected, abs=1e-7)
