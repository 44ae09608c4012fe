"""VQ and RQ against golden codes, naive references, closed forms."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.codebooks import EMA, FSQ, RQ, VQ, RandomProjection
from mezzotint.codebooks.gradient import Gradient, carry_gradient, unit
from mezzotint.codebooks.kmeans import k_nearest, nearest
from mezzotint.codebooks.learned import LearnedCodebook
from mezzotint.seeding import Draws, key_of


def normal(name: str, *shape: int) -> Tensor:
    return Draws(torch.arange(shape[0]), key_of("codebooks")).normal(name, *shape[1:])


def digits(text: str) -> Tensor:
    return torch.tensor([int(digit, 16) for digit in text])


def with_books(codebook: LearnedCodebook, books: Tensor) -> LearnedCodebook:
    codebook.books.vectors.copy_(books)
    codebook.books.start()
    return codebook.eval()


# vector-quantize-pytorch 1.32.0 (torch 2.14.1, CPU): VectorQuantize and ResidualVQ in eval mode,
# rotation_trick=False, on the vectors and books of `normal` above. Codes are hexadecimal digits,
# one string a level.
X = normal("x", 64, 8)
BOOKS = normal("books", 4, 16, 8) * torch.tensor([1.0, 0.5, 0.25, 0.125]).view(4, 1, 1)
COSINE = (
    "da48284e3b588f1bc489f069ab6b7f6a4af6f392ab5a5d8a2fdc5bf88c22c8f3",
    "10ada829aef7844c4dfabf0cf35df99b7bf3e293ed69cbffd7f14318e1b51917",
    "62c671494732b791bc49729e99b724daa7fb40d52e381d0d799f13f1910af163",
    "48642d6e16ada731863d856b85bb1e3558ee89355f251a3856a70f5b08348efc",
)
EUCLIDEAN = (
    "da46a64e355d6f559409f369a5657a6a4af6f392ab5a5a3af3a755f6073ae8f3",
    "90dee605aef5548e0debb5fefb5bf39b12f3c2f1eb69638fa73f6b15e6bea993",
    "a2ed1dcbe7a22eda2c2e022e26d4ad5a20eba2622a33612d12b6d1350a118ca2",
    "b545756a0f5f548f1e9d5d6c85bf89f58c4eb432535b3398b2d5555225e3563b",
)
COSINE_FIRST = [-0.8218, 0.5279, -0.6024, 0.8761, -1.3807, 1.5747, -0.0861, -0.4252]
EUCLIDEAN_FIRST = [-1.1165, 0.9270, -0.3055, -0.0314, -1.2790, 2.1878, 0.4360, -0.3538]


def test_golden_codes_of_vq() -> None:
    cosine = with_books(VQ(dim=8, num_codes=16), normalize(BOOKS[:1], dim=-1))
    assert torch.equal(cosine(X).indices[:, 0], digits(COSINE[0]))
    euclidean = with_books(VQ(dim=8, num_codes=16, metric="euclidean"), BOOKS[:1])
    assert torch.equal(euclidean(X).indices[:, 0], digits(EUCLIDEAN[0]))


def test_golden_codes_of_rq() -> None:
    bridle = with_books(RQ(dim=8, num_codes=16, residual="bridle"), normalize(BOOKS, dim=-1))(X)
    assert torch.equal(bridle.indices, torch.stack([digits(level) for level in COSINE], 1))
    torch.testing.assert_close(bridle.quantized[0], torch.tensor(COSINE_FIRST), rtol=0, atol=6e-5)
    plain = with_books(RQ(dim=8, num_codes=16), BOOKS)(X)
    assert torch.equal(plain.indices, torch.stack([digits(level) for level in EUCLIDEAN], 1))
    torch.testing.assert_close(plain.quantized[0], torch.tensor(EUCLIDEAN_FIRST), rtol=0, atol=6e-5)


def test_golden_codes_of_fsq() -> None:
    """vector-quantize-pytorch 1.32.0, `FSQ(levels=[8, 5, 5, 5])`."""
    expected = (
        "824 192 807 803 207 640 79 384 831 23 632 128 680 599 384 823 392 7 842 0 167 361 "
        "995 601 168 37 800 39 992 543 922 163 199 167 911 984 47 967 961 63 161 806 27 192 "
        "837 657 960 175 7 191 344 872 237 33 159 200 401 432 767 7 992 880 399 159"
    )
    codes = FSQ(levels=(8, 5, 5, 5))(3.0 * X[:, :4])
    assert codes.indices[:, 0].tolist() == [int(code) for code in expected.split()]


def test_golden_codes_of_random_projection() -> None:
    """vector-quantize-pytorch 1.32.0, a `RandomProjectionQuantizer` for each book."""
    expected = (
        "8fb888fde080d0484f8df8dddbdb4e2ffd8cf020d80d82ddbfd80bbe28338865",
        "6cbbb79d8bcd7d38c9ec0d98d549cdb331ea10cddbcd81dd1adcc5dbe506d60c",
    )
    codebook = RandomProjection(dim=8, num_codes=16, num_books=2, code_dim=4)
    codebook.projections.copy_(normal("projections", 2, 4, 8))
    codebook.directions.copy_(normalize(normal("directions", 2, 16, 4), dim=-1))
    assert torch.equal(codebook(X).indices, torch.stack([digits(level) for level in expected], 1))


def test_random_projection_is_what_the_paper_draws() -> None:
    codebook = RandomProjection(dim=200, num_codes=4096, num_books=2, code_dim=16, seed=3)
    reach = (6.0 / 216.0) ** 0.5
    assert codebook.projections.abs().max() <= reach
    torch.testing.assert_close(
        codebook.projections.std(), torch.tensor(reach / 3.0**0.5), rtol=0.02, atol=0
    )
    torch.testing.assert_close(codebook.directions.norm(dim=-1), torch.ones(2, 4096))
    assert codebook.directions.mean(1).abs().max() < 0.02
    assert not torch.equal(
        codebook.projections, RandomProjection(dim=200, num_codes=16).projections[:, :, :]
    )


def test_search_is_exact_far_from_the_origin() -> None:
    """`|x|² − 2 x · e + |e|²` in float32 has no correct digit left here."""
    x, book = normal("far", 500, 8), normal("far book", 64, 8)
    expected = torch.cdist(x.double(), book.double()).argmin(1)
    offset = torch.full((8,), 4096.0)
    moved_x, moved_book = (
        x + offset,
        book + offset,
    )  # rounded to 2⁻¹¹, so near ties may change places
    exact = torch.cdist(moved_x.double(), moved_book.double())
    assert torch.equal(nearest(x, book)[0], expected)
    found = nearest(moved_x, moved_book)[0]
    torch.testing.assert_close(
        exact.gather(1, found[:, None])[:, 0], exact.amin(1), rtol=0, atol=2e-2
    )
    indices, squares = k_nearest(moved_x, moved_book, 3)
    torch.testing.assert_close(
        squares.double(), exact.gather(1, indices).square(), rtol=1e-6, atol=1e-9
    )


def test_search_in_chunks_is_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    x, book = normal("x", 103, 8), normal("book", 16, 8)
    whole = nearest(x, book), k_nearest(x, book, 5)
    monkeypatch.setattr("mezzotint.codebooks.kmeans._BUFFER", {"cpu": 16 * 8})
    pieces = nearest(x, book), k_nearest(x, book, 5)
    for a, b in zip(whole, pieces, strict=True):
        assert torch.equal(a[0], b[0])
        torch.testing.assert_close(a[1], b[1])


def naive(x: Tensor, books: Tensor, residual: str, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """RQ as the papers write it, by autograd: quantized vectors straight through, loss, energies."""
    left, total, losses, energies = x, torch.zeros_like(x), [], []
    for book in books:
        met = normalize(left, dim=1) if residual == "bridle" else left
        codes = book[torch.cdist(met.detach().double(), book.double()).argmin(1)]
        losses.append(beta * (left - codes).square().mean())
        left, total = left - codes, total + codes
        energies.append(left.detach().square().sum() / x.detach().square().sum())
    return x + (total - x).detach(), torch.stack(losses).mean(), torch.stack(energies)


@pytest.mark.parametrize("residual", ["plain", "bridle"])
def test_rq_is_the_naive_one(residual: str) -> None:
    books = normalize(BOOKS, dim=-1) if residual == "bridle" else BOOKS
    codebook = with_books(RQ(dim=8, num_codes=16, residual=residual, commitment=0.7), books)  # type: ignore[arg-type]
    weight = normal("w", 64, 8)
    ours, theirs = (X.clone().requires_grad_() for _ in range(2))
    codes = codebook(ours)
    quantized, loss, energies = naive(theirs, books, residual, 0.7)
    ((codes.quantized * weight).sum() + 3.0 * codes.loss).backward()
    ((quantized * weight).sum() + 3.0 * loss).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(codes.quantized, quantized)
    torch.testing.assert_close(codes.loss, loss)
    torch.testing.assert_close(codes.residual, energies)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_cosine_vq_is_the_naive_one() -> None:
    book = normalize(BOOKS[0], dim=-1)
    codebook = with_books(VQ(dim=8, num_codes=16, commitment=0.7), book[None])
    weight = normal("w", 64, 8)
    ours, theirs = (X.clone().requires_grad_() for _ in range(2))
    codes = codebook(ours)
    directions = normalize(theirs, dim=1)
    chosen = book[(directions @ book.t()).argmax(1)]
    quantized = directions + (chosen - directions).detach()
    loss = 0.7 * (directions - chosen).square().mean()
    ((codes.quantized * weight).sum() + 3.0 * codes.loss).backward()
    ((quantized * weight).sum() + 3.0 * loss).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(codes.quantized, quantized)
    torch.testing.assert_close(codes.loss, loss)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_rotation_trick_is_the_jacobian_of_the_rotation() -> None:
    """The rotation is built by exponentiating its generator in the plane of both vectors, not by reflections."""
    x, q, gradient = normal("rot x", 20, 5), normal("rot q", 20, 5), normal("rot g", 20, 5)
    leaf = x.clone().requires_grad_()
    out = carry_gradient(leaf, q, "rotation")
    assert torch.equal(out, q)
    out.backward(gradient)  # type: ignore[no-untyped-call]
    for row in range(20):
        a, b = (normalize(v[row].double(), dim=0) for v in (x, q))
        across = normalize(b - (a @ b) * a, dim=0)
        angle = torch.arccos(a @ b)
        rotation = torch.linalg.matrix_exp(
            angle * (torch.outer(across, a) - torch.outer(a, across))
        )
        torch.testing.assert_close(rotation @ a, b)
        jacobian = rotation * (q[row].norm() / x[row].norm()).double()
        assert leaf.grad is not None
        torch.testing.assert_close(
            leaf.grad[row].double(), jacobian.t() @ gradient[row].double(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["straight_through", "rotation"])
def test_gradients_of_vectors_without_direction_are_finite(kind: Gradient) -> None:
    x = torch.stack(
        [torch.zeros(4), torch.full((4,), 1e-20), torch.ones(4), -torch.ones(4)]
    ).requires_grad_()
    q = torch.stack([torch.ones(4), torch.ones(4), -torch.ones(4), torch.zeros(4)])
    (carry_gradient(x, q, kind).sum() + unit(x).square().sum()).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() < 10.0


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("residual", ["plain", "bridle"])
def test_silence_gives_no_nan(residual: str, gradient: Gradient) -> None:
    codebook = RQ(dim=8, num_codes=4, residual=residual, gradient=gradient)  # type: ignore[arg-type]
    z = torch.zeros(16, 8, requires_grad=True)
    for _ in range(3):
        codes = codebook(z)
        (codes.quantized.sum() + codes.loss).backward()
    assert z.grad is not None and z.grad.isfinite().all() and codes.loss.isfinite()
    assert all(buffer.isfinite().all() for buffer in codebook.buffers())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("rule", ["count", "norm"])
def test_averages_are_those_of_the_papers(rule: str, metric: str) -> None:
    ema = EMA(rule=rule, decay=0.9, expire_below=0.0)  # type: ignore[arg-type]
    codebook = VQ(dim=8, num_codes=16, metric=metric, ema=ema)  # type: ignore[arg-type]
    codebook.initialize(X)
    book, counts = (
        codebook.books.vectors[0].clone().double(),
        codebook.books.counts[0].clone().double(),
    )
    sums = book * counts[:, None]
    for step in range(5):
        z = normal(f"step{step}", 40, 8)
        met = normalize(z.double(), dim=1) if metric == "cosine" else z.double()
        chosen = torch.cdist(met, book).argmin(1)
        assert torch.equal(codebook(z).indices[:, 0], chosen)
        for code in range(16):
            own = met[chosen == code]
            counts[code] = 0.9 * counts[code] + 0.1 * len(own)
            sums[code] = 0.9 * sums[code] + 0.1 * own.sum(0)
            if len(own) == 0:
                continue
            mean = own.mean(0)
            if rule == "norm":
                mean = normalize(mean, dim=0) if metric == "cosine" else mean
                book[code] = 0.9 * book[code] + 0.1 * mean
            else:
                book[code] = sums[code] / counts[code]
            book[code] = normalize(book[code], dim=0) if metric == "cosine" else book[code]
        torch.testing.assert_close(codebook.books.vectors[0].double(), book, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(codebook.books.counts[0].double(), counts, rtol=1e-6, atol=1e-6)
