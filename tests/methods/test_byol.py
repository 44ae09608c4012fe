"""BYOL's loss, heads and momentum."""

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet50
from mezzotint.methods.byol import BYOL, squared_distance
from mezzotint.methods.method import cosine_momentum
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views


class Flat(Encoder):
    """The image's values through a linear and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__(Input((1, 2, 3), (0.5,), (0.5,)), dim=6)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(x.flatten(1)))
        return out


def views(count: int, *tags: str) -> Views:
    generator = torch.Generator().manual_seed(count)
    x = tuple(torch.randn(5, 1, 2, 3, generator=generator) for _ in range(count))
    return Views(x, tags or ("global",) * count, Draws(torch.arange(5), 0))


def test_is_the_squared_distance_of_unit_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    p, t = torch.randn(7, 4, generator=generator), torch.randn(7, 4, generator=generator)
    p_unit, t_unit = p / p.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    torch.testing.assert_close(squared_distance(p, t), (p_unit - t_unit).square().sum(dim=1).mean())
    assert float(squared_distance(p, p)) == pytest.approx(0.0, abs=1e-6)
    assert float(squared_distance(p, -p)) == pytest.approx(4.0)
    assert float(squared_distance(torch.eye(3), torch.eye(3).roll(1, 0))) == pytest.approx(2.0)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 2)])
def test_both_directions(reduction: str, divisor: int) -> None:
    torch.manual_seed(0)
    method = BYOL(Flat(), hidden_dim=8, dim=4, reduction=reduction)  # type: ignore[arg-type]
    for parameter in method.target_encoder.parameters():
        nn.init.normal_(parameter)  # so that target and trained network differ
    both = views(2)
    p1, p2 = (method.predictor(method.projector(method.encoder(x))) for x in both.x)
    t1, t2 = (method.target_projector(method.target_encoder(x)) for x in both.x)
    expected = (squared_distance(p1, t2) + squared_distance(p2, t1)) / divisor
    torch.testing.assert_close(method(both).loss, expected)


@pytest.mark.parametrize(
    ("tags", "terms"),
    [
        (("global",) * 4, 12),
        (("global", "local", "global", "local", "local"), 8),
        (("simclr", "randaugment"), 2),
    ],
)
def test_sum_has_a_term_for_each_global_target_and_other_view(
    tags: tuple[str, ...], terms: int
) -> None:
    torch.manual_seed(0)
    encoder = Flat()
    batch = views(len(tags), *tags)
    total = BYOL(encoder, hidden_dim=8, dim=4)
    mean = BYOL(encoder, hidden_dim=8, dim=4, reduction="mean")
    mean.load_state_dict(total.state_dict())
    torch.testing.assert_close(total(batch).loss, mean(batch).loss * terms)


def test_local_crops_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="All views are local crops"):
        BYOL(Flat(), hidden_dim=8, dim=4)(views(2, "local", "local"))


def test_parameter_counts_with_resnet50() -> None:
    """35.07 M trained and 32.96 M in the target (revisitAIRL, ECCV 2022, head 'byol')."""
    method = BYOL(resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3)))
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    target = sum(p.numel() for p in method.parameters() if not p.requires_grad)
    assert (trained, target) == (35_067_456, 32_957_760)


@pytest.mark.parametrize(
    ("settings", "projector", "predictor"),
    [
        ({"dim": 256}, 9_449_728, 2_109_696),
        ({"dim": 512, "layers": 3, "predictor_layers": 3}, 27_288_064, 20_996_608),
    ],
)
def test_parameter_counts_of_massrl_heads(
    settings: dict[str, int], projector: int, predictor: int
) -> None:
    """Lin-BN-ReLU-Lin on 2048 features (`massl`); one more Lin-BN-ReLU in `massl_edit`."""
    encoder = Flat()
    encoder.dim = 2048
    method = BYOL(encoder, hidden_dim=4096, **settings)  # type: ignore[arg-type]
    assert sum(p.numel() for p in method.projector.parameters()) == projector
    assert sum(p.numel() for p in method.predictor.parameters()) == predictor


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"predictor_layers": 0}])
def test_heads_without_a_layer_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1, got .* Try 2 for both"):
        BYOL(Flat(), **wrong)  # type: ignore[arg-type]


def test_cosine_momentum_at_quarters() -> None:
    """Values of revisitAIRL's schedule from 0.99."""
    assert cosine_momentum(0.99, 0.25) == pytest.approx(0.9914645, abs=5e-8)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995, abs=5e-8)
    assert cosine_momentum(0.99, 0.75) == pytest.approx(0.9985355, abs=5e-8)
    assert cosine_momentum(0.99, 1.0) == 1.0


@pytest.mark.parametrize(("schedule", "momentum"), [("cosine", 0.95), ("constant", 0.9)])
def test_target_is_the_moving_average(schedule: str, momentum: float) -> None:
    method = BYOL(Flat(), hidden_dim=8, dim=4, momentum=0.9, momentum_schedule=schedule)  # type: ignore[arg-type]
    nn.init.constant_(method.encoder.get_parameter("linear.weight"), 1.0)
    nn.init.constant_(method.target_encoder.get_parameter("linear.weight"), 0.0)
    running = method.target_encoder.get_buffer("norm.running_mean").clone()
    method.encoder.get_buffer("norm.running_mean").fill_(5.0)
    method.after_step(0.5)
    weight = method.target_encoder.get_parameter("linear.weight")
    torch.testing.assert_close(weight, torch.full_like(weight, 1.0 - momentum))
    # Statistics are not averaged: the target keeps those of its own passes.
    assert torch.equal(method.target_encoder.get_buffer("norm.running_mean"), running)


def test_target_normalizes_with_its_own_batch_and_keeps_its_own_statistics() -> None:
    method = BYOL(Flat(), hidden_dim=8, dim=4).train()
    method(views(2))
    assert int(method.target_encoder.get_buffer("norm.num_batches_tracked")) == 2
    assert float(method.target_encoder.get_buffer("norm.running_mean").abs().sum()) > 0


def test_momentum_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1\.5\."):
        BYOL(Flat(), momentum=1.5)
