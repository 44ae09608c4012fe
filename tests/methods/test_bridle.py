"""BRIDLE: targets, losses, cold start, freezing and cache; the faults of its source must not come back."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.augment.masking import RandomMask
from mezzotint.codebooks import EMA, FSQ, RQ, VQ, Codebook, RandomProjection
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.bridle import BRIDLE
from mezzotint.methods.bridle_joint import BRIDLEJoint
from mezzotint.methods.bridle_tokenizer import BRIDLETokenizer, distance
from mezzotint.methods.code_targets import Targets, TokenCache, checksum, code_loss
from mezzotint.methods.method import Method
from mezzotint.methods.tokenizer import ColdStart, LearnedTokenizer
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((1, 16, 32), (0.0,), (1.0,), "audio")
DECODER = Decoder(width=16, depth=1, heads=2)


def vit(width: int = 16) -> ViT:
    torch.manual_seed(0)
    return ViT(INPUT, width=width, depth=2, heads=2, patch=4)  # 4 × 8 patches


def book(num_codes: int = 16, levels: int = 3, **keywords: Any) -> RQ:
    return RQ(dim=8, num_codes=num_codes, num_levels=levels, **keywords)


def bridle(codebook: Codebook | None = None, **keywords: Any) -> BRIDLE:
    return BRIDLE(vit(), codebook=codebook or book(), decoder=DECODER, **keywords)


def patterned(batch: int = 8, step: int = 0) -> Tensor:
    """Patches of a few kinds with noise, which come in runs along the second axis."""
    generator = torch.Generator().manual_seed(step)
    kinds = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(99)) * 2.0
    chosen = torch.randint(6, (batch, 4, 2), generator=generator).repeat_interleave(4, dim=2)
    x = kinds[chosen].permute(0, 1, 3, 2, 4).reshape(batch, 1, 16, 32)
    return x + 0.1 * torch.randn(x.shape, generator=generator)


def views(x: Tensor, step: int = 0) -> Views:
    return Views((x,), ("global",), Draws(torch.arange(len(x)), key_of("bridle", step)))


def train(method: Method, steps: int, lr: float = 3e-3) -> dict[str, float]:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    logs: dict[str, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad()
        outcome = method(views(patterned(step=step), step))
        outcome.loss.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
        logs = outcome.logs
    return {key: float(value) for key, value in logs.items()}


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


def test_cross_entropy_and_baselines_are_those_of_loops() -> None:
    torch.manual_seed(0)
    indices, hidden = torch.randint(5, (2, 6, 3, 1)), torch.tensor([[0, 2, 3], [5, 1, 4]])
    outputs = torch.randn(2, 3, 3 * 5)
    loss, logs = code_loss(outputs, Targets(indices), hidden, 5)
    total = torch.zeros(3)
    right, counts = torch.zeros(3), torch.zeros(3, 5)
    for b in range(2):
        for m in range(3):
            for s in range(3):
                own, code = outputs[b, m, 5 * s : 5 * s + 5], int(indices[b, hidden[b, m], s, 0])
                total[s] -= own.log_softmax(0)[code] / 6
                right[s] += float(own.argmax() == code) / 6
                counts[s, code] += 1 / 6
    torch.testing.assert_close(loss, total.mean())
    for s in range(3):
        assert logs[f"ce_{s + 1}"] == pytest.approx(float(total[s]), rel=1e-5)
        assert logs[f"accuracy_{s + 1}"] == pytest.approx(float(right[s]))
        assert logs[f"unigram_{s + 1}"] == pytest.approx(
            float(torch.special.entr(counts[s]).sum()), rel=1e-5
        )


def test_soft_targets_are_the_expectation_of_the_cross_entropy() -> None:
    torch.manual_seed(0)
    indices, hidden = torch.rand(2, 4, 1, 6).argsort(-1)[..., :3], torch.tensor([[0, 2], [3, 1]])
    weights = torch.rand(2, 4, 1, 3).softmax(-1)
    outputs = torch.randn(2, 2, 6)
    loss, _ = code_loss(outputs, Targets(indices, weights), hidden, 6)
    expected = torch.zeros(())
    for b in range(2):
        for m in range(2):
            at = hidden[b, m]
            expected -= (
                outputs[b, m].log_softmax(0)[indices[b, at, 0]] * weights[b, at, 0]
            ).sum() / 4
    torch.testing.assert_close(loss, expected)


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
    """Regression: restarting in the source's frozen phase changed 52 of 64 codes of a trained book."""
    method = bridle()
    assert not method.codebook.ready
    method(views(patterned()))
    first = method.codebook.state_dict()["books.vectors"].clone()
    method(views(patterned(step=1) * 3.0, 1))
    assert method.codebook.ready and torch.equal(
        method.codebook.state_dict()["books.vectors"], first
    )


def test_cold_start_does_not_see_positions_and_the_variant_of_the_source_does() -> None:
    same = torch.randn(16).repeat(1, 32, 1)
    where = vit().patches.split(torch.zeros(1, 1, 16, 32))[1]
    plain = ColdStart().build(vit(), 8)(same, same, where)
    placed = ColdStart(positions=True).build(vit(), 8)(same, same, where)
    assert plain.std(dim=1).max() < 1e-6 < 0.1 < placed.std(dim=1).max()


def test_cold_start_is_normalized_and_the_same_on_every_rank() -> None:
    x = torch.randn(2, 32, 16)
    where = torch.zeros(1, 32, 2)
    torch.manual_seed(5)
    network = ColdStart().build(vit(), 8)
    z = network(x, x, where)
    torch.manual_seed(6)
    torch.testing.assert_close(
        ColdStart().build(vit(), 8)(x, 5.0 * x + 3.0, where), z, atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(ColdStart(seed=1).build(vit(), 8)(x, x, where), z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x, x, where), z)
    assert not list(network.parameters())


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


# ---------------------------------------------------------------------- cache


def test_cached_targets_are_those_without_a_cache_and_made_once() -> None:
    plain, cached = bridle(), bridle(cache=True)
    calls = []
    network = cached.tokenizer

    class Counting(nn.Module):
        def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
            calls.append(len(x))
            return network(x, *rest)  # type: ignore[no-any-return]

    cached.tokenizer = Counting()
    for step in range(3):
        batch = views(patterned(), step)
        one, two = plain(batch), cached(batch)
        assert torch.equal(one.loss, two.loss)
        for key, value in one.logs.items():
            torch.testing.assert_close(two.logs[key], value)
    assert calls == [8, 8]  # to start the book, and once for every sample
    changed = patterned()
    changed[3, 0, 0, 0] += 1e-6
    cached(views(changed))
    assert calls == [8, 8, 1]
    other = replace(views(patterned()), draws=Draws(torch.arange(4, 12), 0))
    assert torch.equal(cached(other).logs["codes/usage_1"], plain(other).logs["codes/usage_1"])


def test_checksum_sees_any_bit_and_any_place() -> None:
    x = torch.randn(1, 3, 4)
    changed = x.clone()
    changed[0, 1, 2] = torch.nextafter(changed[0, 1, 2], torch.tensor(9.0))
    swapped = x.flip(2)
    assert len({int(checksum(t)) for t in (x, changed, swapped, x.clone())}) == 3


def test_cache_keeps_small_numbers() -> None:
    cache, x = TokenCache(), torch.randn(2, 3)
    wanted = torch.tensor([[1, 2], [3, 32000]])
    found, made = cache(torch.tensor([7, 9]), x, lambda rows: [wanted[rows], None])
    again, made_again = cache(torch.tensor([9, 7]), x.flip(0), lambda rows: [wanted[rows]])
    assert made and not made_again
    assert (
        torch.equal(found[0], wanted)
        and torch.equal(again[0], wanted.flip(0))
        and again[0].dtype == torch.int64
    )


# ---------------------------------------------------------------------- tokenizer phase, joint


def tokenizer_phase(**keywords: Any) -> BRIDLETokenizer:
    ema = EMA(decay=0.8, expire_every=4, expire_below=0.2)
    method = BRIDLETokenizer(vit(), codebook=book(8, 2, ema=ema), estimator_depth=1, **keywords)
    method.given = ("encoder",)
    return method.train()


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


# ---------------------------------------------------------------------- bad input


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
        (lambda: bridle(temperature=1.0), r"only from 2 on, got 1 and temperature=1.0"),
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
