"""The faults of BRIDLE, its parents and their users, each by name: none of them may come back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mezzotint.codebooks import EMA, RQ, VQ, measure_health
from mezzotint.seeding import Draws, key_of


def normal(name: str, *shape: int) -> Tensor:
    return Draws(torch.arange(shape[0]), key_of("faults")).normal(name, *shape[1:])


def bits(codebook: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in codebook.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_soft_codes_are_not_the_farthest() -> None:
    """BRIDLE takes the largest distances for `soft_code`."""
    codebook = VQ(dim=4, num_codes=8, metric="euclidean")
    codebook(normal("x", 64, 4))
    z = normal("z", 16, 4)
    distances = torch.cdist(z, codebook.books.vectors[0]).square()
    indices, found = codebook.nearest(z, 2)
    expected = distances.sort(1)
    assert torch.equal(indices[:, 0], expected.indices[:, :2])
    torch.testing.assert_close(found[:, 0], expected.values[:, :2], rtol=1e-4, atol=1e-5)


def test_the_start_survives_the_first_average() -> None:
    """In BRIDLE's video copy one step replaced the k-means centers by random ones."""
    for ema in (EMA(), EMA(rule="norm")):
        for codebook in (VQ(dim=8, num_codes=16, ema=ema), RQ(dim=8, num_codes=16, ema=ema)):
            x = normal("x", 400, 8)
            codebook.initialize(x)
            started = codebook.books.vectors.clone()
            codebook(x)
            after = codebook.books.vectors
            assert (after - started).norm(dim=-1).max() < 0.02 * started.norm(dim=-1).max()
            assert torch.cosine_similarity(after, started, dim=-1).min() > 0.99


@pytest.mark.parametrize("renormalize", [True, False])
def test_codes_do_not_drift_off_the_sphere(renormalize: bool) -> None:
    """BRIDLE's averages of unit vectors shrink, to 0.91 after 300 steps; an option keeps this."""
    codebook = RQ(
        dim=8, num_codes=8, residual="bridle", ema=EMA(rule="norm", renormalize=renormalize)
    )
    codebook.initialize(normal("start", 200, 8))
    for step in range(300):
        codebook(normal(f"drift{step}", 64, 8))
    lengths = codebook.books.vectors.norm(dim=-1)
    if renormalize:
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    else:
        assert lengths.mean() < 0.999


def test_restart_happens_again_and_again() -> None:
    """BRIDLE restarts unused codes once, on the first forward; VQ never."""
    codebook = VQ(dim=4, num_codes=16, metric="euclidean", ema=EMA(decay=0.5, expire_every=2))
    codebook(normal("x", 200, 4))
    for time in range(3):
        offset = torch.full((4,), 30.0 * (time + 1))  # a new world: most codes die
        for step in range(40):
            codes = codebook(normal(f"{time}.{step}", 200, 4) + offset)
        assert (codes.usage > 0).float().mean() > 0.9


def test_evaluation_never_restarts() -> None:
    """BRIDLE restarts in eval mode: loading a trained codebook replaced 52 of its 64 codes."""
    codebook = VQ(dim=4, num_codes=64, ema=EMA(expire_every=1))
    codebook(normal("x", 200, 4))
    loaded = VQ(dim=4, num_codes=64, ema=EMA(expire_every=1))
    loaded.load_state_dict(codebook.state_dict())
    before = bits(loaded)
    loaded.eval()(normal("few", 3, 4))
    assert same(before, bits(loaded))


def test_a_revived_code_stays_where_it_was_put() -> None:
    """EMA state that is not reset moves it back in the next step (espnet #6284)."""
    for rule in ("count", "norm"):
        ema = EMA(rule=rule, decay=0.99, expire_below=0.5, expire_every=1)
        codebook = VQ(dim=2, num_codes=2, metric="euclidean", ema=ema)
        codebook.books.vectors.copy_(torch.tensor([[[0.0, 0.0], [-50.0, 0.0]]]))
        codebook.books.counts.copy_(torch.tensor([[40.0, 0.0]]))
        if codebook.books.sums is not None:
            codebook.books.sums.copy_(codebook.books.vectors * codebook.books.counts.unsqueeze(2))
        codebook.books.start()
        x = normal("x", 40, 2)
        codebook(x)
        revived = codebook.books.vectors[0, 1].clone()
        # From the code at the origin, 1/√2 of the way to a vector of the batch.
        assert ((revived - x * 0.5**0.5).norm(dim=1) < 1e-5).any()
        assert codebook.books.counts[0].tolist() == [40.0, 20.0]  # that of an average code
        codebook(x)
        assert (codebook.books.vectors[0, 1] - revived).norm() < 0.1


def test_expiry_looks_at_the_step_that_is_counted() -> None:
    """Codes chosen in this step are counted before expired codes are replaced (encodec #33)."""
    codebook = VQ(
        dim=2, num_codes=2, metric="euclidean", ema=EMA(decay=0.0, expire_below=0.5, expire_every=1)
    )
    codebook.books.vectors.copy_(torch.tensor([[[0.0, 0.0], [9.0, 0.0]]]))
    codebook.books.start()  # counts are 0: by them, both are dead
    z = torch.tensor([[0.0, 0.0], [9.0, 0.0]]).repeat(5, 1)
    codebook(z)
    assert torch.equal(codebook.books.vectors[0], torch.tensor([[0.0, 0.0], [9.0, 0.0]]))


def test_fewer_vectors_than_codes_do_not_reset_the_codebook() -> None:
    """An absolute threshold resets it when there are fewer tokens than codes (WavTokenizer #82)."""
    codebook = VQ(dim=4, num_codes=256, ema=EMA(expire_every=1))
    codebook(normal("start", 600, 4))
    for step in range(20):
        before = codebook.books.vectors.clone()
        codebook(normal(f"few{step}", 32, 4))
        moved = (codebook.books.vectors - before).norm(dim=-1) > 0.3
        assert moved.float().mean() < 0.05


def noise_codebook(residual: str) -> RQ:
    return RQ(dim=128, num_codes=64, num_levels=3, residual=residual, ema=EMA(expire_every=5))  # type: ignore[arg-type]


@pytest.mark.parametrize("residual", ["plain", "bridle"])
def test_one_code_does_not_take_all_in_many_dimensions(residual: str) -> None:
    """Vectors of 128 independent channels: a mean is nearer to each than any other vector is.

    Codes that are put on vectors then die again and again, and one code is left with everything
    (LAPA #17)."""
    codebook = noise_codebook(residual)
    codebook.initialize(normal("noise", 1500, 128))
    started = measure_health(codebook.eval()(normal("noise", 1500, 128)))
    assert (started.perplexity > 0.6).all(), started.perplexity
    for step in range(100):
        codebook.train()(normal(f"noise{step}", 500, 128))
    assert (measure_health(codebook.eval()(normal("noise", 1500, 128))).perplexity > 0.5).all()
    for level in range(3):  # all but one code far away: the worst that can happen
        codebook.books.vectors[level, 1:] = 50.0 * normal("far", 64, 128)[1:]
        codebook.books.vectors[level, 0] = 0.0
        codebook.books.counts[level] = torch.tensor([500.0] + [0.0] * 63)
    assert codebook.books.sums is not None
    codebook.books.sums.copy_(codebook.books.vectors * codebook.books.counts.unsqueeze(2))
    for step in range(20):
        codebook.train()(normal(f"noise{step}", 500, 128))
    healed = measure_health(codebook.eval()(normal("noise", 1500, 128)))
    assert (healed.perplexity > 0.5).all(), healed.perplexity


def test_uniform_start_is_not_one_orthant() -> None:
    """BRIDLE draws from [0, 1): all codes in the positive orthant."""
    codebook = RQ(dim=16, num_codes=64, init="uniform_sphere", residual="bridle")
    codebook.initialize(normal("x", 100, 16))
    fraction = (codebook.books.vectors > 0).float().mean((1, 2))
    assert ((fraction - 0.5).abs() < 0.05).all()
    torch.testing.assert_close(codebook.books.vectors.norm(dim=-1), torch.ones(4, 64))


def test_levels_of_plain_rq_are_not_clusterings_of_the_same() -> None:
    """With BRIDLE's residual, levels of long vectors are alike; with `plain` they are not."""
    centers = 6.0 * normal("centers", 64, 16)
    x = centers[Draws(torch.arange(4000), 1).integers("m", high=64)] + 0.5 * normal(
        "noise", 4000, 16
    )
    plain = RQ(dim=16, num_codes=64, num_levels=2)
    bridle = RQ(dim=16, num_codes=64, num_levels=2, residual="bridle")
    between = []
    for codebook in (plain, bridle):
        codebook.initialize(x)
        between.append(float(measure_health(codebook.eval()(x)).between_levels[0, 1]))
    assert between[0] < 0.3 < 0.6 < between[1], between


def test_a_codebook_of_another_size_is_refused() -> None:
    codebook = RQ(dim=8, num_codes=16)
    codebook(normal("x", 64, 8))
    message = (
        "^The checkpoint must have 4 x 32 codes of dim 8, as this codebook has, "
        "got 4 x 16 codes of dim 8. "
        "Construct the codebook with the sizes of the checkpoint, or initialize it again.$"
    )
    with pytest.raises(ValueError, match=message):
        RQ(dim=8, num_codes=32).load_state_dict(codebook.state_dict())


def test_a_codebook_without_codes_encodes_nothing() -> None:
    """A cold-start tokenizer is frozen from its first batch: it must be initialized, not zero."""
    z = normal("x", 64, 8)
    for codebook in (VQ(dim=8, num_codes=16).eval(), VQ(dim=8, num_codes=16).freeze()):
        calls: list[Any] = [
            codebook,
            lambda z, c=codebook: c.nearest(z, 1),
            lambda z, c=codebook: c.decode(z[:, :1].long()),
        ]
        for call in calls:
            with pytest.raises(
                ValueError,
                match=r"must be initialized .*, got one without codes. Call initialize\(vectors\)",
            ):
                call(z)
        codebook.initialize(z)
        assert codebook.ready and codebook(z).loss.isfinite()


def test_an_initialized_codebook_is_not_initialized_again_after_loading() -> None:
    """BRIDLE drops "initted" when a phase loads, and re-initializes the codebook."""
    codebook = VQ(dim=8, num_codes=16)
    codebook(normal("x", 64, 8))
    other = VQ(dim=8, num_codes=16)
    other.load_state_dict(copy.deepcopy(codebook.state_dict()))
    assert other.ready
    assert torch.equal(
        other.eval()(normal("y", 64, 8)).indices, codebook.eval()(normal("y", 64, 8)).indices
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_overflow_in_training_shows_in_the_loss_and_spares_the_codes(bad: float) -> None:
    for codebook in (
        VQ(dim=8, num_codes=16, ema=EMA(expire_every=1)),
        RQ(dim=8, num_codes=16, ema=EMA(expire_every=1)),
    ):
        codebook(normal("x", 64, 8))
        before = codebook.books.vectors.clone()
        z = normal("y", 64, 8)
        z[5, 2] = bad
        assert not codebook(z).loss.isfinite()
        assert (
            torch.equal(before, codebook.books.vectors) and codebook.books.counts.isfinite().all()
        )
        assert codebook(normal("y", 64, 8)).loss.isfinite()


def test_quantized_vectors_are_the_codes_exactly() -> None:
    """`z + (q − z)` rounds: quantized vectors could get other codes."""
    codebook = VQ(dim=8, num_codes=16, metric="euclidean")
    z = 1e4 + normal("x", 64, 8)
    codes = codebook(z)
    codebook.eval()
    found = codebook(codebook(z).quantized)
    assert torch.equal(found.quantized, codebook.decode(codebook(z).indices))
    assert float(found.residual) == 0.0 and codes.residual.isfinite().all()


def test_memory_holds_no_distances_of_all_pairs() -> None:
    """No tensor of a step is larger than the vectors or the fixed buffer: never rows × codes."""
    sizes: list[int] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                t.untyped_storage().nbytes() for t in tree_leaves(out) if isinstance(t, Tensor)
            )
            return out

    rows, dim, codes = 4096, 8, 1024
    codebook = RQ(dim=dim, num_codes=codes, num_levels=2, init="uniform_sphere")
    x = normal("x", rows, dim)
    codebook(x)
    with Watch():  # type: ignore[no-untyped-call]
        z = x.clone().requires_grad_()
        found = codebook(z)
        (found.quantized.sum() + found.loss).backward()
    assert max(sizes) <= 4 * (1 << 18) < 4 * rows * codes
    assert normalize(x, dim=1).isfinite().all()
