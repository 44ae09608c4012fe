"""BRIDLE equals its published code: codebooks, networks, losses of both phases, masks, metrics."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.augment.masking import AxesMask, RandomMask, TubeMask
from mezzotint.codebooks import EMA, RQ, VQ
from mezzotint.codebooks.kmeans import kmeans
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.vit import ViT
from mezzotint.evaluation.metrics import classification
from mezzotint.methods.bridle import distance
from mezzotint.methods.code_targets import Targets, code_loss
from mezzotint.methods.tokenizer import Estimator, LearnedTokenizer
from mezzotint.modality.patches import SinCos, grid_positions
from mezzotint.optim.groups import LayerScales
from mezzotint.optim.schedules import Cosine
from mezzotint.types import Input
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED = stored("bridle")
INPUT = Input((3, 16, 16), (0.0,) * 3, (1.0,) * 3)


def directions(seed: int, *shape: int) -> Tensor:
    return normalize(draw(seed, *shape), dim=-1)


def residual_codebook() -> RQ:
    """As published: codes are not kept at length 1, and none is replaced."""
    ema = EMA(rule="norm", renormalize=False, expire_below=0.0)
    codebook = RQ(dim=6, num_codes=8, num_levels=3, residual="bridle", ema=ema)
    codebook.books.vectors.copy_(torch.stack([directions(100 + i, 8, 6) for i in range(3)]))
    codebook.books.start()
    return codebook


def test_residual_quantization() -> None:
    z = (draw(1, 2, 10, 6) * 1.5).requires_grad_()
    codes = residual_codebook().eval()(z)
    (codes.loss + (codes.quantized * draw(2, 2, 10, 6)).sum()).backward()
    expected = EXPECTED["rq"]
    assert codes.indices.tolist() == expected["codes"] and z.grad is not None
    check(codes.quantized, expected["quantized"], 2e-6)
    # The published loss adds a term without a gradient, which is four times ours.
    check(5.0 * codes.loss, expected["loss"], 1e-6)
    check(z.grad, expected["gradient"], 5e-6)


def test_moving_average_of_residual_codes() -> None:
    codebook = residual_codebook().train()
    codebook(draw(3, 2, 30, 6))
    check(codebook.books.vectors[0], EXPECTED["rq average"], 1e-6)


def test_vector_quantization_in_training() -> None:
    codebook = VQ(dim=6, num_codes=8, ema=EMA(rule="norm", expire_below=0.0)).train()
    codebook.books.vectors.copy_(directions(100, 8, 6)[None])
    codebook.books.start()
    for step, expected in enumerate(EXPECTED["vq"]["steps"]):
        z = draw(10 + step, 2, 20, 6).requires_grad_()
        codes = codebook(z)
        (codes.loss + (codes.quantized * draw(20 + step, 2, 20, 6)).sum()).backward()
        assert codes.indices[..., 0].tolist() == expected["codes"] and z.grad is not None
        check_digest([codes.quantized], expected["quantized"], 1e-6)
        check(5.0 * codes.loss, expected["loss"], 2e-6)
        check_digest([z.grad], expected["gradient"], 2e-6)
    check(codebook.books.vectors[0], EXPECTED["vq"]["book"], 1e-6)


def test_kmeans_from_the_same_start() -> None:
    x = directions(4, 60, 6)
    means, counts = kmeans(x, 5, spherical=True, iterations=10, start=x[:5])
    check(means, EXPECTED["kmeans"]["means"], 1e-6)
    assert counts.tolist() == EXPECTED["kmeans"]["counts"]


def encoder() -> ViT:
    return ViT(INPUT, width=24, depth=2, heads=3, patch=4, pool="cls")


def weights(vit: ViT) -> list[Tensor]:
    """Order the weights of a ViT as the published code has them, without its class token."""
    return [*vit.patches.parameters(), *vit.blocks.parameters(), *vit.norm.parameters()]


def phase() -> tuple[ViT, torch.nn.Module, torch.nn.Module, Estimator]:
    """Return encoder, decoder, tokenizer and estimator with their weights set."""
    teacher = encoder()
    decoder = Decoder(width=16, depth=2, heads=2).build(teacher, 3 * 8)
    tokenizer = LearnedTokenizer(normalize=False).build(teacher, 6)
    estimator = Estimator(teacher, 6, 2)
    network = tokenizer.network
    assert teacher.cls is not None and isinstance(network, ViT) and network.cls is not None
    ends = [p for name, p in decoder.named_parameters() if name != "hidden"]
    fill([teacher.cls, decoder.hidden, *weights(teacher), *ends], 300, 0.2)
    both = [
        *weights(network),
        *tokenizer.get_submodule("head").parameters(),
        *estimator.parameters(),
    ]
    fill([network.cls, *both], 500, 0.2)
    return teacher, decoder, tokenizer, estimator


X = draw(6, 3, 3, 16, 16)
ORDER = draw(5, 3, 16).argsort(dim=1)
KEEP, MASKED = ORDER[:, :4], ORDER[:, 4:]


def test_position_embeddings_with_their_halves_swapped() -> None:
    where = grid_positions((4, 4), torch.device("cpu"))
    rows, columns = SinCos(2, 24)(where)[0].chunk(2, dim=1)
    check(torch.cat([columns, rows], dim=1), EXPECTED["positions"], 1e-6)
    rows, columns = SinCos(2, 16)(where)[0].chunk(2, dim=1)
    check_digest([torch.cat([columns, rows], dim=1)], EXPECTED["decoder positions"], 1e-6)


def test_encoder_of_all_and_of_visible_patches() -> None:
    teacher = phase()[0]
    full = teacher.encode(*teacher.embed(X))
    check_digest([full], EXPECTED["encoder"]["full"], 1e-5)
    check(full[0, :2, :8], EXPECTED["encoder"]["first"], 1e-5)
    check_digest([teacher.encode(*teacher.embed(X, KEEP))], EXPECTED["encoder"]["visible"], 1e-5)


def test_encoder_phase() -> None:
    """Codes of the tokenizer, loss of the masked patches, and its gradient."""
    teacher, decoder, tokenizer, _ = phase()
    values, where = teacher.patches.split(X)
    expected = EXPECTED["encoder phase"]
    z = tokenizer(X, teacher.patches.vectors(values), where)
    check_digest([z], expected["vectors"], 1e-5)
    codes = residual_codebook().eval()(z.detach()).indices
    assert codes.tolist() == expected["codes"]
    logits = decoder(teacher.tokens(X, KEEP), KEEP, MASKED, where, (4, 4))
    loss, _ = code_loss(logits, Targets(codes.unsqueeze(3), None), MASKED, 8)
    loss.backward()
    check(loss, expected["loss"], 2e-6)
    assert teacher.cls is not None
    parts = [
        teacher.patches.get_parameter("project.weight"),
        teacher.get_parameter("blocks.0.attn.qkv.weight"),
        teacher.norm.weight,
        decoder.get_parameter("hidden"),
        decoder.get_parameter("head.weight"),
        teacher.cls,
    ]
    check_digest([p.grad for p in parts if p.grad is not None], expected["gradients"], 2e-5)


def test_tokenizer_phase() -> None:
    teacher, _, tokenizer, estimator = phase()
    values, where = teacher.patches.split(X)
    expected = EXPECTED["tokenizer phase"]
    codes = residual_codebook().eval()(tokenizer(X, teacher.patches.vectors(values), where))
    estimated = estimator(codes.quantized, where)
    check_digest([estimated], expected["estimator"], 1e-5)
    error = distance(estimated, teacher.tokens(X), center=False)
    check(error, expected["cosine"], 1e-5)
    check(5.0 * codes.loss, expected["commitment"], 1e-5)
    check(distance(draw(8, 2, 5, 8), draw(7, 2, 5, 8), center=False), expected["distance"], 1e-6)


def test_learning_rate() -> None:
    schedule = Cosine(warmup_epochs=10)
    rates = [5e-4 * schedule(int(4 * e), 560, 4) for e in EXPECTED["lr"]["epochs"]]
    check(torch.tensor(rates, dtype=torch.float64), EXPECTED["lr"]["values"], 1e-8)


def test_numbers_of_visible_patches() -> None:
    masks = EXPECTED["masks"]
    for count, ratio, visible in masks["random"]:
        assert RandomMask(ratio=ratio).visible((count,)) == visible
    assert AxesMask(ratios=[0.3, 0.7]).visible((8, 64)) == masks["axes"][0]
    assert TubeMask(ratio=0.9).visible((8, 14, 14)) == masks["tube"]


def test_mean_average_precision_and_auc() -> None:
    labels = draw(9, 40, 5) > 0.6
    scores = draw(90, 40, 5) + labels.float()
    found = dict(classification(scores, torch.arange(5), labels))
    for name, value in EXPECTED["metrics"].items():
        assert found[name] == pytest.approx(value, abs=1e-6)


def test_rates_of_layers() -> None:
    """The head counts as a block of its own: the last block has the decay once."""
    published = EXPECTED["layer decay"]
    names = [*published]
    inner = [None if name.startswith(("fc_norm", "head")) else name for name in names]
    for name, factor in zip(names, LayerScales(decay=0.75).of(inner), strict=True):
        assert factor == pytest.approx(published[name]), name
