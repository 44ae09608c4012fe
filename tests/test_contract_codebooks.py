"""The contract of every codebook: shapes, inverses, precision, freezing, resuming, refusals.

Each codebook of the index is tested without an edit here if its arguments have defaults; `VARIANTS`
adds other settings of learned codebooks.
"""

import copy
import functools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mezzotint.codebooks import EMA, FSQ, RQ, VQ, Codebook, RandomProjection
from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws, key_of

VARIANTS: dict[str, Callable[[], LearnedCodebook]] = {
    "vq_cosine": lambda: VQ(dim=6, num_codes=8),
    "vq_euclidean_norm": lambda: VQ(dim=6, num_codes=8, metric="euclidean", ema=EMA(rule="norm")),
    "vq_sphere": lambda: VQ(dim=6, num_codes=8, metric="euclidean", init="uniform_sphere"),
    "rq_plain": lambda: RQ(dim=6, num_codes=8, num_levels=3),
    "rq_plain_rotation": lambda: RQ(dim=6, num_codes=8, num_levels=3, gradient="rotation"),
    "rq_shared": lambda: RQ(dim=6, num_codes=8, num_levels=3, shared=True, init="data"),
    "rq_bridle": lambda: RQ(
        dim=6, num_codes=8, num_levels=3, residual="bridle", ema=EMA(rule="norm")
    ),
    "rq_bridle_source": lambda: RQ(
        dim=6, num_codes=8, num_levels=3, residual="bridle", ema=EMA(rule="norm", renormalize=False)
    ),
    "rq_bridle_shared": lambda: RQ(
        dim=6, num_codes=8, num_levels=3, residual="bridle", shared=True
    ),
}
BOUNDED = {"fsq"}
"""Codebooks that bound their input, so that infinity is a value like any other."""

SMALL = {"dim": 6, "num_codes": 8, "num_codebooks": 2, "code_dim": 4, "levels": (4, 3, 5)}
"""Small sizes of the arguments that a codebook has."""


def smallest(kind: str) -> Codebook:
    """A codebook of the index, with small sizes."""
    keys = index().members("Codebook")[kind].keys
    missing = [name for name, key in keys.items() if key.required and name not in SMALL]
    assert not missing, f"Add example values of {missing} for {kind} to SMALL."
    config = {"kind": kind, **{name: value for name, value in SMALL.items() if name in keys}}
    config = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
    codebook = construct(resolve(config, "Codebook", "codebook"), "Codebook", {})
    assert isinstance(codebook, Codebook)
    return codebook


EVERY: dict[str, Callable[[], Codebook]] = {
    **{kind: functools.partial(smallest, kind) for kind in index().members("Codebook")},
    **VARIANTS,
}


def normal(*shape: int, name: str = "x") -> Tensor:
    return Draws(torch.arange(shape[0]), key_of("contract")).normal(name, *shape[1:])


def started(name: str) -> Codebook:
    """In eval mode, after three steps."""
    codebook = EVERY[name]()
    for step in range(3):
        codebook(normal(50, codebook.dim, name=f"step{step}"))
    return codebook.eval()


def state_of(codebook: Codebook) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in codebook.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 0)])
@pytest.mark.parametrize("name", EVERY)
def test_shapes_and_inverse(name: str, shape: tuple[int, ...]) -> None:
    codebook = started(name)
    z = (
        normal(7, codebook.dim)[0].expand(*shape, codebook.dim)
        if 0 in shape or not shape
        else normal(*shape, codebook.dim)
    )
    codes = codebook(z)
    assert codes.quantized.shape == (*shape, codebook.out_dim)
    assert (
        codes.indices.shape == (*shape, codebook.num_levels) and codes.indices.dtype == torch.int64
    )
    assert codes.loss.shape == () and codes.loss.isfinite()
    assert codes.usage.shape == (codebook.num_levels, codebook.num_codes)
    assert codes.residual.shape == (codebook.num_levels,)
    assert torch.equal(
        codes.usage.sum(1), torch.full((codebook.num_levels,), float(z[..., 0].numel()))
    )
    assert torch.equal(
        codebook.decode(codes.indices), codes.quantized
    )  # to the bit: no z + (q − z)
    assert torch.equal(codebook.decode(codes.indices.to(torch.int32)), codes.quantized)


@pytest.mark.parametrize("name", EVERY)
def test_nearest_are_the_nearest(name: str) -> None:
    """Regression: BRIDLE's `soft_code` took the farthest codes."""
    codebook = started(name)
    z = normal(40, codebook.dim)
    indices, distances = codebook.nearest(z.view(5, 8, -1), 4)
    assert indices.shape == distances.shape == (5, 8, codebook.num_levels, 4)
    assert torch.equal(indices[..., 0].flatten(0, 1), codebook(z).indices)
    assert (distances.diff(dim=-1) >= 0).all()
    everything, far = codebook.nearest(z, codebook.num_codes)
    assert torch.equal(
        everything.sort(-1).values, torch.arange(codebook.num_codes).expand_as(everything)
    )
    assert (far[..., -1] >= distances.flatten(0, 1)[..., -1]).all()
    soft_indices, probabilities = codebook.soft_targets(z, 4, 0.5)
    assert torch.equal(soft_indices, everything[..., :4])
    torch.testing.assert_close(probabilities, torch.softmax(-far[..., :4] / 0.5, -1))
    hard = codebook.soft_targets(z, 4, 1e-9)[1]
    assert (hard[..., 0][far[..., 1] - far[..., 0] > 1e-6] == 1.0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_arithmetic_is_float32_whatever_comes_in(name: str, dtype: torch.dtype) -> None:
    codebook = started(name)
    z = (normal(40, codebook.dim) * 100.0).to(dtype)
    exact = codebook(z.float())
    autocast_to = dtype if dtype != torch.float64 else torch.bfloat16
    with torch.autocast("cpu", dtype=autocast_to):
        leaf = z.clone().requires_grad_()
        codes = codebook(leaf)
        if codes.quantized.requires_grad:
            (codes.quantized.float().square().mean() + codes.loss).backward()
            assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert torch.equal(codes.indices, exact.indices)
    assert codes.quantized.dtype == dtype and torch.equal(
        codes.quantized, exact.quantized.to(dtype)
    )
    assert codes.loss.dtype == torch.float32 and torch.equal(codes.loss, exact.loss)
    assert all(not b.is_floating_point() or b.dtype == torch.float32 for b in codebook.buffers())


@pytest.mark.parametrize("name", VARIANTS)
def test_learning_in_half_precision_is_that_of_the_same_numbers(name: str) -> None:
    half, full = VARIANTS[name](), VARIANTS[name]()
    for step in range(25):
        z = (normal(60, 6, name=f"s{step}") * 200.0).half()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half(z)
        full(z.float())
    assert equal(state_of(half), state_of(full))
    assert all(value.isfinite().all() for value in half.state_dict().values())


@pytest.mark.parametrize("name", EVERY)
def test_frozen_is_frozen_to_the_bit(name: str) -> None:
    codebook = started(name)
    before = state_of(codebook)
    far = normal(30, codebook.dim) + 50.0  # a batch that leaves most codes unused
    for _ in range(45):
        codebook(far)  # in eval mode
    with codebook.train().freezing():
        assert codebook.train().frozen and not codebook.learning
        for _ in range(45):
            codebook(far)
    assert equal(before, state_of(codebook))
    assert not codebook.frozen and codebook.learning
    codebook(far)
    assert equal(before, state_of(codebook)) == (not isinstance(codebook, LearnedCodebook))
    assert not list(
        codebook.parameters()
    )  # codes are buffers, out of reach of optimizers and weight decay


@pytest.mark.parametrize("name", EVERY)
def test_resuming_goes_on_to_the_bit(name: str) -> None:
    whole, first, second = (EVERY[name]() for _ in range(3))
    batches = [normal(30, whole.dim, name=f"b{i}") * (i % 7 + 1) for i in range(60)]
    for batch in batches:
        whole(batch)
    for batch in batches[:33]:
        first(batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in batches[33:]:
        second(batch)
    assert equal(state_of(whole), state_of(second))


@pytest.mark.parametrize("name", EVERY)
def test_no_global_randomness(name: str) -> None:
    before = torch.get_rng_state()
    one, other = started(name), started(name)
    assert torch.equal(before, torch.get_rng_state())
    assert equal(state_of(one), state_of(other))


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_gives_the_same_codebook(name: str) -> None:
    codebook = EVERY[name]()
    config = codebook.config
    assert config["kind"] in index().members("Codebook")
    resolved = resolve(config, "Codebook", "codebook")
    again = construct(resolved, "Codebook", {})
    assert resolve(again.config, "Codebook", "codebook") == resolved and equal(
        state_of(codebook), state_of(again)
    )


@pytest.mark.parametrize("name", EVERY)
def test_it_can_be_pickled(name: str) -> None:
    codebook = started(name)
    sent = pickle.loads(pickle.dumps(codebook))
    z = normal(9, codebook.dim)
    assert equal(state_of(codebook), state_of(sent)) and sent.config == codebook.config
    assert torch.equal(sent(z).quantized, codebook(z).quantized)


@pytest.mark.parametrize("name", EVERY)
def test_codes_do_not_depend_on_the_batch(name: str) -> None:
    codebook = started(name)
    z = normal(9, codebook.dim)
    whole, one = codebook(z), codebook(z[4:5])
    assert torch.equal(whole.indices[4:5], one.indices)
    assert torch.equal(whole.quantized[4:5], one.quantized)


@pytest.mark.parametrize("name", EVERY)
def test_the_input_is_not_modified(name: str) -> None:
    codebook = EVERY[name]()
    z = normal(60, codebook.dim)
    before = z.clone()
    codebook(z)
    codebook.eval().nearest(z, 2)
    assert torch.equal(z, before)


@pytest.mark.parametrize("name", EVERY)
def test_eval_mode_passes_the_gradient_that_training_passes(name: str) -> None:
    """Other libraries pass no gradient in eval mode, so none passes a frozen tokenizer."""
    codebook = started(name)
    codebook.freeze()
    grads = []
    for mode in (True, False):
        z = normal(9, codebook.dim).requires_grad_()
        codes = codebook.train(mode)(z)
        assert codes.quantized.requires_grad == codebook.differentiable
        if not codebook.differentiable:
            return
        (codes.quantized * normal(9, codebook.dim, name="w")).sum().add(codes.loss).backward()
        assert z.grad is not None and z.grad.abs().sum() > 0
        grads.append(z.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", EVERY)
def test_compiled_code_gives_the_same(name: str) -> None:
    codebook = started(name)
    z = normal(9, codebook.dim)
    compiled = torch.compile(codebook, backend="eager")
    found, expected = compiled(z), codebook(z)
    assert torch.equal(found.indices, expected.indices) and torch.equal(
        found.quantized, expected.quantized
    )


@pytest.mark.parametrize("name", EVERY)
def test_bad_vectors_are_refused_in_one_line(name: str) -> None:
    codebook = started(name)
    z = normal(9, codebook.dim)
    cases: list[tuple[Tensor, type[Exception], str]] = [
        (
            normal(9, codebook.dim + 1),
            ValueError,
            rf"^Vectors must have shape \(…, {codebook.dim}\), channels last, got .*\. Project",
        ),
        (torch.zeros(()), ValueError, "channels last"),
        (z.long(), TypeError, "^Vectors must be floating-point numbers, got torch.int64. Call"),
        (
            z.masked_fill(z > 1.5, torch.nan),
            ValueError,
            "^Vectors must be finite, got NaN or inf. Find",
        ),
        (
            z.masked_fill(z > 1.5, torch.inf),
            ValueError,
            "^Vectors must be finite, got NaN or inf. Find",
        ),
    ]
    for bad, kind, message in cases:
        if name in BOUNDED and bad.isinf().any():
            continue
        with pytest.raises(kind, match=message) as caught:
            codebook(bad)
        assert "\n" not in str(caught.value)
        with pytest.raises(kind, match=message):
            codebook.nearest(bad, 1)
    for k in (0, codebook.num_codes + 1):
        with pytest.raises(
            ValueError, match=f"`k` must be 1 to {codebook.num_codes}, .*, got {k}. Use"
        ):
            codebook.nearest(z, k)
    with pytest.raises(ValueError, match="`temperature` must be above 0, got 0.0. Use"):
        codebook.soft_targets(z, 1, 0.0)
    for indices in (z, torch.zeros(3, codebook.num_levels + 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="Indices must be integers .* got .* Pass"):
            codebook.decode(indices)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VQ(num_codes=1), "`num_codes` must be 2 or more, got 1. Try"),
        (lambda: RQ(num_codes=1), "`num_codes` must be 2 or more, got 1. Try"),
        (lambda: RandomProjection(num_codes=1), "`num_codes` must be 2 or more, got 1. Try"),
        (lambda: RandomProjection(code_dim=0), "`code_dim` must be 1 or more, got 0. Try"),
        (lambda: FSQ(levels=(2, 4)), r"`levels` must be .*, got \(2, 4\). Try"),
        (lambda: FSQ(levels=()), r"`levels` must be .*, got \(\). Try"),
        (lambda: RQ(num_levels=0), "must be 1 or more, got 256 and 0. Try"),
        (
            lambda: RQ(num_codes=3, num_levels=4, shared=True),
            "must have at least one code per level, got 3 codes for 4 levels. Use",
        ),
        (lambda: VQ(metric="l1"), "`metric` must be one of cosine, euclidean, got 'l1'. Try"),  # type: ignore[arg-type]
        (lambda: RQ(residual="x"), "`residual` must be one of plain, bridle, got 'x'. Try"),  # type: ignore[arg-type]
        (lambda: RQ(init="x"), "`init` must be one of kmeans.*, got 'x'. Try"),  # type: ignore[arg-type]
        (lambda: RQ(gradient="x"), "`gradient` must be one of straight_through.*, got 'x'. Try"),  # type: ignore[arg-type]
        (lambda: RQ(commitment=-1.0), "`commitment` must be 0 or more, got -1.0. Try"),
        (lambda: EMA(rule="x"), "`rule` must be count or norm, got 'x'. Try"),  # type: ignore[arg-type]
        (lambda: EMA(decay=1.0), "`decay` must be 0 or more and below 1, got 1.0. Try"),
        (lambda: EMA(expire_below=2.0), "`expire_below` must be .*, got 2.0. Try"),
        (lambda: EMA(expire_every=0), "`expire_every` must be 1 or more, got 0. Set"),
    ],
)
def test_bad_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
