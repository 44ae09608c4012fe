"""One way of comparing pairs for all methods: masks, weights and reductions, against loops."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from mezzotint.methods.byol import BYOL, squared_distance
from mezzotint.methods.dino import DINO
from mezzotint.methods.moco import MoCo, queue_contrast
from mezzotint.methods.siamese import Siamese
from mezzotint.methods.simclr import SimCLR, nt_xent
from mezzotint.methods.simsiam import SimSiam, negative_cosine
from tests.methods.pair_masks import PAIRS, WEIGHTS, build, make_views, masked

DISTANCES = [
    (BYOL, {"reduction": "sum"}, squared_distance),
    (BYOL, {"reduction": "mean"}, squared_distance),
    (SimSiam, {"reduction": "mean"}, negative_cosine),
    (SimSiam, {"reduction": "sum"}, negative_cosine),
    (
        MoCo,
        {"head": "byol", "symmetric": True, "queue_size": 20, "reduction": "mean"},
        None,
    ),
]


@pytest.mark.parametrize(("cls", "keywords", "distance"), DISTANCES)
@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_is_that_of_the_pairs(
    cls: type[Siamese], keywords: Any, distance: Any, weighted: bool
) -> None:
    method, views = build(cls, **keywords), masked(weights=weighted)
    zs, ps = method.online(views)
    ts = method.targets(views, zs)
    assert set(ts) == {0, 1}  # nothing is a target that no pair asks for
    if distance is None:
        assert isinstance(method, MoCo)
        queue = method.queue.clone()
        terms = [queue_contrast(ps[p], ts[t], queue, method.temperature)[0] for p, t in PAIRS]
    else:
        terms = [distance(ps[p], ts[t]) for p, t in PAIRS]
    weights = WEIGHTS if weighted else [1.0] * len(PAIRS)
    expected = torch.stack([w * term for w, term in zip(weights, terms, strict=True)]).sum()
    if keywords["reduction"] == "mean":
        expected = expected / sum(weights)
    torch.testing.assert_close(method.compare(ps, ts, views)[0], expected)


def test_nt_xent_with_a_mask_is_a_loop_over_its_pairs() -> None:
    z = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(4, 4)
    for (p, t), weight in zip(PAIRS, WEIGHTS, strict=True):
        weights[p, t] = weight
    unit, total, mass = torch.nn.functional.normalize(z, dim=2), torch.zeros(()), 0.0
    for (p, t), weight in zip(PAIRS, WEIGHTS, strict=True):
        partners = [b for a, b in PAIRS if a == p]
        for row in range(5):
            logits = torch.stack(
                [
                    unit[p, row] @ unit[v, i] / 0.2
                    for v in range(4)
                    for i in range(5)
                    if i != row or v in partners
                ]
            )
            total = total + weight * (logits.logsumexp(0) - unit[p, row] @ unit[t, row] / 0.2)
            mass += weight
    torch.testing.assert_close(nt_xent(z, 0.2, None, weights)[0], total / mass)


def test_a_full_mask_is_no_mask() -> None:
    method, views = build(SimCLR), make_views(4, 6)
    full = tuple((p, t) for p in range(4) for t in range(4) if p != t)
    torch.testing.assert_close(method(replace(views, pairs=full)).loss, method(views).loss)


@pytest.mark.parametrize("cls", [BYOL, SimSiam, DINO])
def test_the_mean_does_not_grow_with_repeated_views(cls: type[Siamese]) -> None:
    method = build(
        cls,
        **({"reduction": "mean"} if cls is BYOL else {}),
        **({"prototypes": 20} if cls is DINO else {}),
    )
    view = make_views(2, 6).x[0]
    losses = [
        float(method(replace(make_views(2, 6), x=(view,) * n, tags=("a",) * n)).loss.detach())
        for n in (2, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
