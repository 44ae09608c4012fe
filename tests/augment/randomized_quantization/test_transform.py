import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Compose
from mezzotint.seeding import Draws
from tests import ROOT
from tests.augment.randomized_quantization.reference import (
    FLOATS,
    INTEGERS,
    randomized_quantize,
    sample,
    with_codes,
)


def as_published(x: Tensor, bins: int, spacing: str, reproduction: str, p: float) -> Tensor:
    """Naive form of the published algorithm: every value is compared with every bin."""
    batch, channels = x.shape[:2]
    rows = x.reshape(batch * channels, -1)
    low, high = rows.min(dim=1).values, rows.max(dim=1).values
    if spacing == "random":
        fractions = torch.rand(batch * channels * (bins - 1)).view(batch * channels, bins - 1)
    else:
        fractions = (torch.arange(1, bins) * torch.tensor(1 / bins)).expand(batch * channels, -1)
    edges = low[:, None] + fractions * (high - low)[:, None]
    edges = edges.sort(dim=1).values
    left = torch.cat([low[:, None], edges], dim=1)
    right = torch.cat([edges, high[:, None] + 1e-6], dim=1)
    if reproduction == "random":
        fractions = torch.rand(batch * channels * bins).view(batch * channels, bins)
        values = left + fractions * (right - left)
    else:
        values = (left + right) / 2
    upper = torch.cat([edges, high[:, None] + 1.0], dim=1)
    inside = (rows[:, None] >= left[:, :, None]) & (rows[:, None] < upper[:, :, None])
    assert (inside.sum(dim=1) == 1).all()
    y = (values[:, :, None] * inside).sum(dim=1).view(x.shape)
    if p != 1:
        y = torch.where(torch.rand(batch).view(-1, *[1] * (x.ndim - 1)) < p, y, x)
    return y


@pytest.mark.parametrize("spacing", ["random", "uniform"])
@pytest.mark.parametrize("reproduction", ["random", "middle"])
@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.parametrize("tied", [False, True])
def test_reference_reproduces_the_published_code_draw_for_draw(
    spacing: str, reproduction: str, p: float, tied: bool
) -> None:
    for seed, bins in enumerate((2, 3, 5, 8, 13)):
        torch.manual_seed(seed)
        x = torch.randn(6, 3, 9, 11)
        x = (x * 4).round() / 4 if tied else x
        torch.manual_seed(seed)
        expected = as_published(x, bins, spacing, reproduction, p)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        y = randomized_quantize(
            x, bins, spacing=spacing, reproduction=reproduction, p=p, reference=True
        )
        assert torch.equal(y, expected)
        assert torch.equal(
            torch.get_rng_state(), state
        )  # and what follows sees the same random numbers


# RMSE over range, on uniform data, measured with the published algorithm. Columns: random edges
# with random values, random edges with midpoints, even edges with random values, even edges with
# midpoints.
DISTORTION = {
    2: (0.287, 0.205, 0.204, 0.1445),
    4: (0.182, 0.129, 0.103, 0.0723),
    8: (0.106, 0.076, 0.051, 0.0361),
    16: (0.057, 0.041, 0.026, 0.0181),
    32: (0.030, 0.021, 0.013, 0.0090),
}


@pytest.mark.parametrize("bins", DISTORTION)
@pytest.mark.parametrize("column", range(4))
def test_distortion(bins: int, column: int) -> None:
    spacing, reproduction = ("random", "uniform")[column // 2], ("random", "middle")[column % 2]
    x = torch.linspace(0, 1, 1000).expand(20_000, 1, -1)
    y = randomized_quantize(x, bins, spacing=spacing, reproduction=reproduction, seed=0)
    distortion = (y - x).square().mean().sqrt().item()
    assert distortion == pytest.approx(DISTORTION[bins][column], rel=0.03)
    # The widths of k random bins sum to one and are Dirichlet(1, …, 1): their cubes sum to 6 / ((k
    # + 1)(k + 2)).
    cubes = 6 / ((bins + 1) * (bins + 2)) if spacing == "random" else bins**-2
    assert distortion == pytest.approx(
        math.sqrt(cubes / (6 if reproduction == "random" else 12)), rel=0.01
    )


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("shape", [(4, 3, 8, 9), (2, 5, 31), (3, 2, 4, 5, 6), (4, 7)])
def test_levels_stay_in_range_few_and_in_order(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = sample(dtype, *shape)
    kept = x.clone()
    y, codes = with_codes(x, 5)
    assert torch.equal(x, kept)
    assert (y.shape, y.dtype, y.stride()) == (x.shape, dtype, x.stride())
    assert (codes.shape, codes.dtype) == (x.shape, torch.uint8)
    assert torch.equal(y, randomized_quantize(x, 5, seed=0))
    rows = (t.double().reshape(shape[0] * shape[1], -1) for t in (x, y, codes))
    for row, out, code in zip(*rows, strict=True):
        assert row.min() <= out.min() and out.max() <= row.max()
        assert len(out.unique()) <= 5 and code.max() < 5
        order = row.argsort()
        assert (out[order].diff() >= 0).all() and (code[order].diff() >= 0).all()


@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=30
    ),
    bins=st.integers(2, 12),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_any_finite_row_stays_in_its_range(values: list[float], bins: int, seed: int) -> None:
    x = torch.tensor([[values]])
    y = randomized_quantize(x, bins, seed=seed)
    assert x.min() <= y.min() and y.max() <= x.max()
    assert (y.flatten()[x.flatten().argsort()].diff() >= 0).all()


def test_scaling_and_shifting_a_channel_scales_and_shifts_the_result() -> None:
    x = torch.randn(4, 3, 500, dtype=torch.float64)
    a, b = torch.tensor([2.0, 0.5, 30.0])[:, None], torch.tensor([1.0, -3.0, 100.0])[:, None]
    torch.testing.assert_close(
        randomized_quantize(a * x + b, seed=3), a * randomized_quantize(x, seed=3) + b
    )


def test_p_chooses_samples_not_channels() -> None:
    x = torch.randn(2000, 3, 5, 5)
    y = randomized_quantize(x, p=0.3, seed=6)
    left = (x == y).flatten(2).all(dim=2)
    assert torch.equal(left.all(dim=1), left.any(dim=1))
    assert left.all(dim=1).float().mean().item() == pytest.approx(0.7, abs=0.04)
    assert torch.equal(y[~left], randomized_quantize(x, seed=6)[~left])
    assert torch.equal(randomized_quantize(x, p=0.0), x)


def test_a_range_of_bins_is_drawn_for_each_sample() -> None:
    x = torch.rand(3000, 1, 400)
    y, codes = with_codes(x, (2, 4), spacing="uniform")
    counts = codes.flatten(1).amax(dim=1).long() + 1
    assert counts.bincount(minlength=5)[2:].div(3000).tolist() == pytest.approx(
        [1 / 3] * 3, abs=0.04
    )
    for row, out, count in zip(x[:50, 0], y[:50, 0], counts[:50].tolist(), strict=True):
        assert len(out.unique()) == count
        low, high = row.min(), row.max()
        for level in range(count):  # even bins, each with its value inside
            left, right = (low + (high - low) * i / count for i in (level, level + 1))
            assert ((out >= left - 1e-6) & (out <= right + 1e-6)).any()
    assert torch.equal(y, randomized_quantize(x, (2, 4), spacing="uniform", seed=0))


def test_generator_decides_and_the_global_one_is_left_alone() -> None:
    x = torch.randn(2, 3, 20)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    y = randomized_quantize(x, seed=9)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(y, randomized_quantize(x, seed=9))
    assert not torch.equal(y, randomized_quantize(x, seed=10))


@pytest.mark.parametrize(
    ("dtype", "bins"),
    [(torch.float32, (3, 8)), (torch.uint8, 8), (torch.bfloat16, 8), (torch.float32, 40)],
)
def test_compiles_to_one_graph_with_the_same_numbers(
    dtype: torch.dtype, bins: int | tuple[int, int]
) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    transform = RandomizedQuantization(bins=bins, p=0.5)
    x = sample(dtype, 4, 3, 8, 8)
    params = transform.draw(x.shape, Draws(torch.arange(4), 12))

    def view(x: Tensor) -> Tensor:
        return transform.apply(x, params)

    assert torch.equal(torch.compile(view, fullgraph=True, backend=counter)(x), view(x))
    assert counter.frame_count == 1


def test_compiles_with_its_own_draws_and_a_gradient() -> None:
    torch.compiler.reset()
    model = nn.Sequential(
        nn.Linear(6, 6), RandomizedQuantization(bins=4, channel_dim=2, gradient="ste")
    )
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, 6)
    compiled(x).sum().backward()
    linear = model[0]
    assert isinstance(linear, nn.Linear) and linear.weight.grad is not None
    torch.testing.assert_close(linear.weight.grad, x.sum(dim=(0, 1)).expand(6, -1))


def test_module_acts_in_training_only_unless_always() -> None:
    x = torch.randn(2, 3, 8, 8)
    module = RandomizedQuantization(bins=4)
    torch.manual_seed(1)
    y = module(x)
    torch.manual_seed(1)
    assert torch.equal(y, randomized_quantize(x, 4))
    assert module.eval()(x) is x
    assert not torch.equal(RandomizedQuantization(bins=4, always=True).eval()(x), x)
    mask = torch.arange(8).lt(4).expand(2, 1, 8, 8)
    assert torch.equal(module.train()(x, mask=mask)[..., 4:], x[..., 4:])


def test_module_lives_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), RandomizedQuantization(bins=(5, 10), channel_dim=2))
    visited: list[str] = []
    model.apply(lambda part: visited.append(type(part).__name__))
    assert visited == ["Linear", "RandomizedQuantization", "Sequential"]
    assert not list(model[1].state_dict())
    assert "RandomizedQuantization(bins=(5, 10), channel_dim=2)" in repr(model).replace(
        "[5, 10]", "(5, 10)"
    )
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        x = torch.randn(2, 6, 4)
        torch.manual_seed(0)
        y = twin(x)
        torch.manual_seed(0)
        assert torch.equal(y, model(x))


@pytest.mark.parametrize(
    "keywords", [{}, {"bins": (3, 9), "p": 0.5}, {"spacing": "uniform", "reproduction": "middle"}]
)
def test_transform_depends_on_the_sample_alone(keywords: dict[str, Any]) -> None:
    transform = RandomizedQuantization(**keywords)
    assert transform.config["kind"] == "randomized_quantization"
    x, ids = torch.rand(20, 3, 6, 6), torch.arange(20)
    params = transform.draw(x.shape, Draws(ids, 5))
    assert all(len(value) == 20 for value in params.values())
    y = transform(x, Draws(ids, 5))
    assert torch.equal(y, transform.apply(x, params))
    assert torch.equal(y[7:9], transform(x[7:9], Draws(ids[7:9], 5)))
    if "edges" in params:
        assert not torch.equal(y, transform(x, Draws(ids, 6)))
    both = Compose(transforms=[transform, RandomizedQuantization(bins=2)])
    assert all(len(row.unique()) <= 2 for row in both(x, Draws(ids, 5)).flatten(0, 1))


def test_transform_takes_rows_as_a_list_from_a_recipe() -> None:
    keywords: dict[str, Any] = {"bins": [3, 3]}
    made = RandomizedQuantization(**keywords)
    x = torch.rand(2, 1, 100)
    assert all(len(row.unique()) == 3 for row in made(x, Draws(torch.arange(2), 0)).flatten(0, 1))


def pictures() -> dict[str, Callable[[], Any]]:
    from PIL import Image

    generator = np.random.default_rng(0)
    rgb = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    return {
        "L": lambda: rgb.convert("L"),
        "RGB": lambda: rgb,
        "RGBA": lambda: rgb.convert("RGBA"),
        "CMYK": lambda: rgb.convert("CMYK"),
        "F": lambda: rgb.convert("F"),
        "I": lambda: rgb.convert("I"),
        "I;16": lambda: Image.fromarray(generator.integers(0, 65536, (9, 7), dtype=np.uint16)),
    }


@pytest.mark.parametrize("mode", pictures())
def test_a_pil_image_keeps_its_mode(mode: str) -> None:
    picture = pictures()[mode]()
    assert picture.mode == mode
    y = RandomizedQuantization(bins=3)(picture)
    assert (y.mode, y.size) == (mode, picture.size)
    for band, old in zip(y.split(), picture.split(), strict=True):
        out, before = np.asarray(band), np.asarray(old)
        assert len(np.unique(out)) <= 3
        assert before.min() <= out.min() and out.max() <= before.max()


def test_torchvision_compose() -> None:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    picture = pictures()["RGB"]()
    before = v2.Compose([RandomizedQuantization(bins=3), v2.ToImage()])(picture)
    bytes_ = v2.Compose([v2.ToImage(), RandomizedQuantization(bins=3)])(picture)
    floats = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), RandomizedQuantization(bins=3)]
    )(picture)
    plain = v2.Compose([v2.PILToTensor(), RandomizedQuantization(bins=3)])(picture)
    assert type(bytes_) is type(floats) is tv_tensors.Image and type(plain) is Tensor
    for y, dtype in (
        (before, torch.uint8),
        (bytes_, torch.uint8),
        (floats, torch.float32),
        (plain, torch.uint8),
    ):
        assert (y.shape, y.dtype) == ((3, 9, 7), dtype)
        assert all(1 < len(channel.unique()) <= 3 for channel in y)


def test_a_single_sample_is_a_batch_of_one() -> None:
    x = torch.randn(5, 30)
    torch.manual_seed(0)
    y = RandomizedQuantization(channel_dim=0)(x)
    torch.manual_seed(0)
    assert torch.equal(y, randomized_quantize(x[None])[0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: randomized_quantize(x, 1), ValueError, "got 1."),
        (lambda x: randomized_quantize(x, (5, 3)), ValueError, "got (5, 3)."),
        (lambda x: randomized_quantize(x, 2.5), ValueError, "got 2.5."),
        (lambda x: randomized_quantize(x, spacing="even"), ValueError, "'even'"),
        (lambda x: randomized_quantize(x, reproduction="zero"), ValueError, "'zero'"),
        (lambda x: randomized_quantize(x, gradient="all"), ValueError, "'all'"),
        (lambda x: randomized_quantize(x, p=1.5), ValueError, "got 1.5."),
        (
            lambda x: randomized_quantize(x, channel_dim=0),
            ValueError,
            "`channel_dim` must be 1 to 2",
        ),
        (lambda x: randomized_quantize(x, channel_dim=-3), ValueError, "got -3 for rank 3"),
        (lambda x: randomized_quantize(x, channel_dim=3), ValueError, "got 3 for rank 3"),
        (lambda x: randomized_quantize(x[0, 0]), ValueError, "rank 2"),
        (lambda x: randomized_quantize(x > 0), TypeError, "bool"),
        (lambda x: randomized_quantize(x * 1j), TypeError, "complex"),
        (lambda x: randomized_quantize(x, mask=x), TypeError, "mask"),
        (lambda x: randomized_quantize(x, mask=x[0] > 0), ValueError, "mask"),
        (lambda x: RandomizedQuantization()(x), ValueError, "channel_dim=1"),
        (lambda x: RandomizedQuantization()(x, 3), TypeError, "Draws"),
        (lambda x: RandomizedQuantization()([x]), TypeError, "list"),
        (lambda x: RandomizedQuantization(bins=0), ValueError, "got 0."),
    ],
)
def test_refusals_say_what_is_accepted_what_was_wrong_and_what_to_do(
    call: Callable[[Tensor], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=r"^[`A-Z].* must (be|have) .*, got .*\. [A-Z]") as caught:
        call(torch.randn(2, 3, 8))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_palette_image_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'P'.*convert"):
        RandomizedQuantization()(pictures()["RGB"]().convert("P"))


def test_the_guide_runs() -> None:
    guide = ROOT / "docs" / "randomized-quantization.md"
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})
