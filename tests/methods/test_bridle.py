"""BRIDLE: targets, losses, cold start, freezing, cache, and regressions of faults in its source."""

import math
from typing import Any

import pytest
import torch

from mezzotint.augment.masking import RandomMask
from mezzotint.codebooks import FSQ, VQ, Codebook, RandomProjection
from mezzotint.methods.bridle import BRIDLEJoint, BRIDLETokenizer, distance
from mezzotint.methods.tokenizer import ColdStart, LearnedTokenizer
from tests.methods.tiny_bridle import (
    DECODER,
    book,
    bridle,
    patterned,
    tokenizer_phase,
    train,
    views,
    vit,
)


@pytest.mark.parametrize(
    "codebook",
    [book(), VQ(dim=8, num_codes=16), RandomProjection(dim=8, num_codes=16, code_dim=4)],
    ids=["rq", "vq", "rp"],
)
def test_first_loss_is_the_logarithm_of_the_number_of_codes(codebook: Codebook) -> None:
    loss = bridle(codebook)(views(patterned())).loss
    assert float(loss.detach()) == pytest.approx(math.log(16), abs=0.5)


def test_it_learns_more_than_frequencies_and_the_books_stay_to_the_bit() -> None:
    method = bridle(book(6, 2), mask=RandomMask(ratio=0.5))
    method(views(patterned()))
    before = {
        k: v.clone()
        for k, v in method.state_dict().items()
        if k.startswith(("codebook", "tokenizer"))
    }
    logs = train(method, 200, lr=1e-2)
    assert logs["ce_1"] < 0.93 * logs["unigram_1"] and logs["unigram_1"] > 1.5
    assert logs["codes/residual_1"] > logs["codes/residual_2"]
    after = method.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_several_codes_are_the_nearest(temperature: float | None) -> None:
    """Regression: `soft_code` of the source takes the codes that are farthest away."""
    method = bridle(codes_per_level=3, temperature=temperature)
    x = patterned()
    values, where = method.encoder.patches.split(x)
    targets, codes = method.targets(views(x), method.encoder.patches.vectors(values), where)
    assert targets.indices.shape == (8, 32, 3, 3) and torch.equal(
        targets.indices[..., 0], codes.indices
    )
    z = method.tokenizer(x, values, where)
    distances = torch.cdist(z.flatten(0, 1), method.codebook.decode(torch.arange(16).unsqueeze(1)))
    nearest = distances.topk(3, largest=False).indices.view(8, 32, 3)
    assert torch.equal(targets.indices[:, :, 0], nearest)
    if temperature is not None:
        assert targets.weights is not None and (targets.weights.diff(dim=-1) <= 0).all()
        torch.testing.assert_close(targets.weights.sum(-1), torch.ones(8, 32, 3))


def test_a_frozen_book_is_started_from_the_first_batch_and_only_then() -> None:
    """Regression: restarting in the source's frozen phase changed 52 of 64 trained codes."""
    method = bridle()
    assert not method.codebook.ready
    method(views(patterned()))
    first = method.codebook.state_dict()["books.vectors"].clone()
    method(views(patterned(step=1) * 3.0, 1))
    assert method.codebook.ready and torch.equal(
        method.codebook.state_dict()["books.vectors"], first
    )


def test_best_rq_is_a_projection_of_patches_by_the_codebook() -> None:
    codebook = RandomProjection(dim=16, num_codes=32, code_dim=4)
    method = bridle(codebook, tokenizer=ColdStart(project=False, normalize=False))
    x = patterned()
    values, where = method.encoder.patches.split(x)
    targets, _ = method.targets(views(x), values, where)
    expected = RandomProjection(dim=16, num_codes=32, code_dim=4)(values).indices
    assert torch.equal(targets.indices[..., 0], expected)
    with pytest.raises(
        ValueError, match=r"`codebook.dim` must be 16, the values of a patch, .*got 8"
    ):
        bridle(tokenizer=ColdStart(project=False))


def test_scalar_codes_fit_too() -> None:
    fsq = FSQ(levels=(3, 3))
    assert bridle(fsq)(views(patterned())).loss.isfinite()


def test_a_phase_without_its_predecessor_is_refused() -> None:
    teacher = BRIDLETokenizer(vit(), codebook=book())
    with pytest.raises(
        ValueError,
        match=r"bridle_tokenizer needs a trained encoder. It must come from an earlier phase",
    ):
        teacher(views(patterned()))
    student = bridle(tokenizer=LearnedTokenizer())
    with pytest.raises(
        ValueError, match=r"bridle needs a trained tokenizer. It must come from an earlier phase"
    ):
        student(views(patterned()))


def test_a_batch_smaller_than_the_book_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 32 vectors for 64 codes. Use a larger first batch"):
        bridle(book(64))(views(patterned(1)))


def test_silence_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"All patches of the first batch are equal, such as silence"
    ):
        bridle()(views(torch.full((4, 1, 16, 32), -2.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: bridle(mask=RandomMask(ratio=0.99)),
            r"grid of 4 × 8 patches with none visible. Change",
        ),
        (lambda: bridle(codes_per_level=17), r"must be 1 to 16, .*got 17"),
        (
            lambda: bridle(temperature=1.0),
            r"`method.temperature` needs method.codes_per_level of 2 or more, got 1",
        ),
        (
            lambda: tokenizer_phase(tokenizer=ColdStart()),
            r"must be learned_tokenizer, got cold_start",
        ),
        (
            lambda: ColdStart(project=False, positions=True),
            r"positions` needs a projection, got project=False",
        ),
        (
            lambda: BRIDLEJoint(vit(), codebook=book(), every=0),
            r"must be at least 1 and .* positive, got 0 and 0.2",
        ),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_tokenizer_learns_the_features_of_a_teacher_that_stays_to_the_bit() -> None:
    method = tokenizer_phase()
    before = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    with torch.no_grad():
        first = float(method(views(patterned())).logs["cosine"])
    logs = train(method, 60)
    assert logs["cosine"] > first + 0.3 and logs["cosine"] > 0.5
    assert logs["codes/usage_1"] > 0.6
    assert all(
        torch.equal(value, before[key]) for key, value in method.encoder.state_dict().items()
    )
    assert not method.encoder.training and method.tokenizer.training


def test_distance_is_one_minus_the_cosine_and_finite_at_zero() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4) + 5.0
    expected = sum(
        1.0
        - float(torch.dot(a[i, j], b[i, j]).detach() / (a[i, j].detach().norm() * b[i, j].norm()))
        for i in range(2)
        for j in range(3)
    )
    assert float(distance(a, b, center=False).detach()) == pytest.approx(expected / 6, rel=1e-5)
    torch.testing.assert_close(
        distance(a, b, center=True), distance(a, b - b.mean((0, 1)), center=False)
    )
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    torch.autograd.backward(distance(zero, zero, center=True))
    assert zero.grad is not None and zero.grad.isfinite().all()


def test_joint_trains_the_tokenizer_in_every_nth_step_alone() -> None:
    method = BRIDLEJoint(
        vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, every=3, weight=0.5
    ).train()
    moved = []
    for step in range(7):
        books = method.codebook.state_dict()["books.vectors"].clone()
        method.zero_grad()
        method(views(patterned(step=step), step)).loss.backward()
        gradient = sum(
            float(p.grad.abs().sum()) for p in method.tokenizer.parameters() if p.grad is not None
        )
        changed = not torch.equal(books, method.codebook.state_dict()["books.vectors"])
        assert changed == (gradient > 0)
        moved.append(changed)
        method.after_step(0.5)
    assert moved == [True, False, False, True, False, False, True]


def test_no_gradient_of_the_tokenizer_reaches_the_encoder() -> None:
    turn = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=9.0)
    plain = BRIDLEJoint(vit(), codebook=book(8, 2), decoder=DECODER, estimator_depth=1, weight=1e-9)
    plain.load_state_dict(turn.state_dict())
    for method in (turn, plain):
        method.train()(views(patterned())).loss.backward()
    for one, two in zip(turn.encoder.parameters(), plain.encoder.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
