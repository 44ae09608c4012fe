"""Padding of tokens does not change features, and models with it can be compiled and exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.domain_agnostic import DomainAgnostic
from mezzotint.encoders.vit import ViT
from mezzotint.methods.embedding_quantization import EmbeddingQuantization
from mezzotint.methods.emix import EMix
from mezzotint.modality.tokens import PADDING
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

LENGTHS = (12, 7, 1, 3)
MADE: dict[str, Callable[[Input], ViT]] = {
    "vit": lambda input: ViT(input, width=24, depth=2, heads=3),
    "vit_cls": lambda input: ViT(input, width=24, depth=2, heads=3, pool="cls"),
    "domain_agnostic": lambda input: DomainAgnostic(input, width=24, depth=2, heads=3),
}
each_encoder = pytest.mark.parametrize("name", MADE)
two_encoders = pytest.mark.parametrize("name", ["vit", "domain_agnostic"])


def made(name: str) -> ViT:
    torch.manual_seed(0)
    encoder = MADE[name](Input((16,), (), (), "tokens", 30)).eval()
    with torch.no_grad():
        encoder.get_parameter("patches.table.weight")[PADDING] = (
            100.0  # felt wherever it is not left out
        )
    return encoder


def texts(length: int) -> Tensor:
    """The same four texts with more or less padding; the last one also has some at the start."""
    x = torch.full((4, length), PADDING)
    words = torch.randint(2, 30, (4, 12), generator=torch.Generator().manual_seed(1))
    for row, count in enumerate(LENGTHS):
        start = 2 if row == 3 else 0
        x[row, start : start + count] = words[row, :count]
    return x


@each_encoder
def test_features_do_not_depend_on_padding(name: str) -> None:
    encoder, x = made(name), texts(16)
    features = encoder(x)
    torch.testing.assert_close(encoder(texts(12)), features, atol=1e-5, rtol=1e-4)
    for row, count in enumerate(LENGTHS[:3]):
        torch.testing.assert_close(
            encoder(x[row : row + 1, :count])[0], features[row], atol=1e-5, rtol=1e-4
        )
    out = encoder.tokens(texts(12))
    torch.testing.assert_close(
        encoder.tokens(x)[:, :12][texts(12) != PADDING], out[texts(12) != PADDING]
    )


@each_encoder
def test_a_text_without_padding_needs_no_mask(name: str) -> None:
    encoder, x = made(name), texts(12)[:1]
    assert torch.allclose(encoder(x), encoder.pool(encoder.encode(*encoder.embed(x))), atol=1e-5)


@each_encoder
def test_an_empty_text_has_finite_features_of_any_length(name: str) -> None:
    encoder = made(name)
    short, long = (encoder(torch.full((2, n), PADDING)) for n in (4, 16))
    assert torch.isfinite(short).all()
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)


def test_padding_among_visible_tokens_is_ignored() -> None:
    encoder, x = made("vit"), texts(16)
    keep = torch.tensor([3, 15, 0, 9]).expand(4, -1)
    found = encoder.tokens(x, keep)
    torch.testing.assert_close(
        found[1, [0, 2]], encoder.tokens(x, keep[:, [0, 2]])[1], atol=1e-5, rtol=1e-4
    )
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("method", [EMix, EmbeddingQuantization])
def test_methods_ignore_padding_too(method: Any) -> None:
    losses = []
    for length in (12, 16):
        torch.manual_seed(0)
        model = method(made("domain_agnostic"), dim=8)
        losses.append(model(Views((texts(length),), ("global",), Draws(torch.arange(4), 3))).loss)
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


@two_encoders
def test_compiles_whole_and_exports(name: str) -> None:
    encoder, x = made(name), texts(16)
    expected = encoder(x)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-4)
    graph = torch.export.export(
        encoder, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    torch.testing.assert_close(graph.module()(x[:3]), expected[:3], atol=1e-5, rtol=1e-4)


def test_onnx_runs_as_torch_does(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder: nn.Module = made("vit")
    x, path = texts(16), tmp_path / "encoder.onnx"
    torch.onnx.export(encoder, (x,), str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), encoder(x), atol=1e-4, rtol=1e-3)
