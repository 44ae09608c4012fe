import numpy as np
import pytest
import torch

from mezzotint.augment.table import FeatureDrop, FeatureNoise, FeatureQuantization
from mezzotint.augment.transform import Transform
from mezzotint.seeding import Draws


def draws(batch: int = 64, start: int = 0) -> Draws:
    return Draws(torch.arange(start, start + batch), 3)


def rows(batch: int = 64) -> torch.Tensor:
    return torch.randn(batch, 9, generator=torch.Generator().manual_seed(0)) * 1.5


def test_each_number_is_replaced_by_one_of_its_bin() -> None:
    x, transform = rows(), FeatureQuantization(bins=5, range=2.0)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    for b in range(64):
        for f in range(9):
            edges = np.concatenate(
                [[-2.0], np.sort(params["edges"][b, f].numpy()) * 4.0 - 2.0, [2.0]]
            )
            bin_ = int(np.clip(np.searchsorted(edges, x[b, f].item(), side="right") - 1, 0, 4))
            value = (
                edges[bin_] + (edges[bin_ + 1] - edges[bin_]) * params["values"][b, f, bin_].item()
            )
            assert y[b, f].item() == pytest.approx(value, abs=1e-5)
    assert y.abs().max() <= 2.0


def test_more_bins_move_less_and_p_is_by_row() -> None:
    x = rows(500).clamp(-3, 3)
    error = [
        (FeatureQuantization(bins=b)(x, draws(500)) - x).square().mean().sqrt().item()
        for b in (2, 8, 32)
    ]
    assert error[0] > 2 * error[1] > 4 * error[2]
    # Of the range of 6, the published distortion of random bins with random values at k = 8 is
    # 0.106 on uniform data.
    uniform = torch.rand(2000, 9) * 6 - 3
    found = (
        FeatureQuantization(bins=8)(uniform, draws(2000)) - uniform
    ).square().mean().sqrt().item() / 6
    assert found == pytest.approx(0.106, rel=0.03)
    some = FeatureQuantization(p=0.5)(x, draws(500)) != x
    assert (
        0.4 < some.any(dim=1).float().mean() < 0.6 and some[some.any(dim=1)].float().mean() > 0.99
    )


def test_noise_and_drop() -> None:
    x = rows(500)
    assert (FeatureNoise(std=0.3)(x, draws(500)) - x).std().item() == pytest.approx(0.3, rel=0.05)
    dropped = FeatureDrop(p=0.4)(x, draws(500)) == 0
    assert dropped.float().mean().item() == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("transform", [FeatureQuantization(), FeatureNoise(), FeatureDrop()])
def test_a_view_depends_on_its_row_alone(transform: Transform) -> None:
    x = rows()
    before = x.clone()
    whole = transform(x, draws())
    assert torch.equal(x, before) and torch.equal(whole[5:9], transform(x[5:9], draws(4, 5)))


def test_settings_that_mean_nothing_are_refused() -> None:
    for make in (
        lambda: FeatureQuantization(bins=1),
        lambda: FeatureNoise(std=-1.0),
        lambda: FeatureDrop(p=1.0),
    ):
        with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
            make()
