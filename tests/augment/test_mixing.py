"""Mixing of samples against the formulas of DACL, mixup and CutMix, row by row."""

import pytest
import torch
from scipy.stats import beta
from torch import Tensor
from torch.nn.functional import one_hot

from mezzotint.augment.mixing import DACLMixup, Mixing, beta_half, lerp_rows
from mezzotint.seeding import Draws, key_of


def draws(rows: int, step: int = 0) -> Draws:
    return Draws(torch.arange(rows), key_of("mixing", step))


def test_a_weighted_mean_of_rows() -> None:
    x, partner = torch.rand(5, 2, 3), torch.tensor([1, 0, 4, 3, 2])
    weight = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    expected = [w * x[i] + (1 - w) * x[p] for i, (w, p) in enumerate(zip(weight, partner))]  # noqa: B905
    torch.testing.assert_close(lerp_rows(x, partner, weight), torch.stack(expected))


def test_folded_weights_are_uniform_above_one_half() -> None:
    weight = beta_half(draws(20_000))
    assert weight.min() >= 0.5 and weight.max() <= 1.0
    assert float(weight.mean()) == pytest.approx(0.75, abs=0.005)


@pytest.mark.parametrize("mixture", ["linear", "geometric", "binary"])
def test_dacl_mixes_each_sample_with_its_partner(mixture: str) -> None:
    x = torch.rand(6, 4) + 0.1
    transform = DACLMixup(low=0.6, mixture=mixture)  # type: ignore[arg-type]
    params = transform.draw(x.shape, draws(6))
    assert params["weight"].min() >= 0.6 and params["weight"].max() < 1.0
    view = transform.apply(x, params)
    for row in range(6):
        partner = x[(row + int(params["partner"][row])) % 6]
        weight = params["weight"][row]
        if mixture == "linear":
            expected = weight * x[row] + (1 - weight) * partner
        elif mixture == "geometric":
            expected = x[row] ** weight * partner ** (1 - weight)
        else:
            expected = torch.where(params["own"][row], x[row], partner)
        torch.testing.assert_close(view[row], expected)


def test_dacl_keeps_a_single_sample_and_refuses_negative_values() -> None:
    x = torch.rand(1, 4)
    assert torch.equal(DACLMixup()(x, draws(1)), x)
    with pytest.raises(ValueError, match="got negative values. Use mixture=linear"):
        DACLMixup(mixture="geometric")(-torch.rand(3, 4), draws(3))
    tokens = torch.randint(2, 9, (3, 4))
    with pytest.raises(ValueError, match="must be binary for token ids, .* got linear. Set mix"):
        DACLMixup()(tokens, draws(3))
    assert DACLMixup(mixture="binary")(tokens, draws(3)).dtype == torch.int64
    with pytest.raises(ValueError, match="`low` must be .*, got 1.0 and 'linear'. Try"):
        DACLMixup(low=1.0)


def weights_of(mixed: Tensor, x: Tensor, row: int) -> list[tuple[int, float]]:
    """Partners and weights that explain a mixed row of one-hot vectors."""
    own = float(mixed[row, row])
    return [(p, own) for p in range(len(x)) if p != row and mixed[row, p] > 0]


def test_mixup_has_one_weight_per_step_and_no_sample_is_its_own_partner() -> None:
    x = torch.eye(8)
    mixed, target = Mixing(mixup=1.0)(x, x, draws(8))
    assert torch.equal(mixed, target)
    pairs = [weights_of(mixed, x, row) for row in range(8)]
    assert all(len(pair) == 1 for pair in pairs)
    assert sorted(pair[0][0] for pair in pairs) == list(range(8))
    assert len({round(pair[0][1], 5) for pair in pairs}) == 1


def test_weights_per_sample_follow_the_beta_distribution() -> None:
    count = 4000
    x = torch.eye(2)[torch.arange(count) % 2]
    x = torch.stack([torch.arange(count, dtype=torch.float32), torch.ones(count)], 1)
    mixed, _ = Mixing(mixup=5.0, per_sample=True)(x, x, draws(count))
    order = draws(count).bits("partner").argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    weight = (mixed[:, 0] - x[partner, 0]) / (x[:, 0] - x[partner, 0])
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    expected = torch.tensor(beta(5.0, 5.0).ppf(quantiles.numpy()), dtype=torch.float32)
    torch.testing.assert_close(weight.quantile(quantiles), expected, atol=0.02, rtol=0)


def test_cutmix_weighs_targets_by_the_area_of_the_box() -> None:
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 16, 16).contiguous()
    target = one_hot(torch.arange(6), 6).float()
    fractions = set()
    for step in range(6):
        mixed, mixed_target = Mixing(cutmix=1.0)(x, target, draws(6, step))
        own = (mixed == x).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(mixed_target.diagonal(), own)
        fractions |= {round(float(own[0]), 4)}
        box = (mixed != x)[0, 0].nonzero()
        if len(box):
            (top, left), (bottom, right) = box.amin(0).tolist(), box.amax(0).tolist()
            assert len(box) == (bottom - top + 1) * (right - left + 1)
    assert len(fractions) > 2


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "one of them above 0, got 0.0 and 0.0. Try"),
        ({"mixup": 1.0, "p": 0.0}, "`p` must be above 0 .*, got 0.0. Try"),
        ({"cutmix": 1.0, "per_sample": True}, "`cutmix` must be 0 with `per_sample`, got 1.0. R"),
    ],
)
def test_bad_arguments_are_refused(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixing(**keywords)  # type: ignore[arg-type]
