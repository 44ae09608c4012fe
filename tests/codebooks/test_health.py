"""Measures of codes against scikit-learn and closed forms."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from torch import Tensor

from mezzotint.codebooks import RQ, Health, measure_health
from mezzotint.codebooks.health import adjusted_information, entropy_of
from mezzotint.seeding import Draws
from mezzotint.types import Codes


def codes_of(indices: Tensor, num_codes: int) -> Codes:
    usage = torch.stack(
        [torch.bincount(level.flatten(), minlength=num_codes) for level in indices.unbind(-1)]
    ).float()
    empty = torch.zeros(())
    return Codes(empty, indices, empty, usage, torch.zeros(indices.shape[-1]))


def labels(rows: int, high: int, name: str = "a") -> Tensor:
    return Draws(torch.arange(rows), 7).integers(name, high=high)


@pytest.mark.parametrize("high", [2, 30, 10**9])
def test_entropy_of_labels(high: int) -> None:
    found = entropy_of(labels(500, high) * 7)
    counts = torch.unique(labels(500, high), return_counts=True)[1].double() / 500
    torch.testing.assert_close(found.double(), -(counts * counts.log()).sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_adjusted_information_is_that_of_scikit_learn(mix: float) -> None:
    a, other = labels(4000, 40), labels(4000, 40, "b")
    b = torch.where(Draws(torch.arange(4000), 8).uniform("mix") < mix, (a * 3) % 40, other)
    expected = adjusted_mutual_info_score(a.numpy(), b.numpy())
    assert abs(float(adjusted_information(a, b)) - expected) < 0.02
    plain = mutual_info_score(a.numpy(), b.numpy())
    assert (
        mix > 0 or plain > 0.15
    )  # what the adjustment takes away: independent labels look informed


def test_usage_and_perplexity() -> None:
    indices = torch.stack([torch.arange(64) % 4, torch.arange(64) % 16], 1)
    found = measure_health(codes_of(indices, 16))
    torch.testing.assert_close(found.usage, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(found.perplexity, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(4.0), math.log(16.0)]))
    assert found.between_levels[0, 1] > 0.5 and found.about_position is None


def test_codes_that_name_positions_are_found() -> None:
    """BRIDLE's cold start quantizes vectors with position embeddings; codes reveal positions."""
    positions = torch.arange(64).expand(50, 64)
    by_position, free = positions % 8, labels(3200, 8).view(50, 64)
    found = measure_health(
        codes_of(torch.stack([by_position, free], -1), 8), positions=torch.arange(64)
    )
    assert found.about_position is not None
    torch.testing.assert_close(found.about_position, torch.tensor([1.0, 0.0]), rtol=0, atol=0.02)
    again = measure_health(codes_of(torch.stack([by_position, free], -1), 8), positions=positions)
    assert torch.equal(again.about_position, found.about_position)  # type: ignore[arg-type]


def test_logs_are_scalars_without_waiting_for_the_device() -> None:
    codebook = RQ(dim=8, num_codes=16, num_levels=3)
    z = Draws(torch.arange(200), 3).normal("x", 8).view(4, 50, 8)
    codebook(z)
    found = measure_health(codebook.eval()(z), torch.arange(50))
    logs = found.logs("tokens/")
    assert len(logs) == 5 * 3 + 1 and all(v.shape == () and v.isfinite() for v in logs.values())
    assert float(logs["tokens/residual_3"]) == float(found.residual[2])
    off = found.between_levels[~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(logs["tokens/between_levels"], off.max())
    with torch.device("meta"):  # tensors without values: whoever reads one raises
        on_meta = measure_health(
            Codes(
                torch.empty(4, 50, 8), torch.empty(4, 50, 3, dtype=torch.int64), torch.empty(()),
                torch.empty(3, 16),
                torch.empty(3),
            ),
            torch.empty(50, dtype=torch.int64),
        )  # fmt: skip
        assert isinstance(on_meta, Health) and len(on_meta.logs()) == 16
