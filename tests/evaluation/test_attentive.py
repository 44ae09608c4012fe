"""The attentive probe: it finds the one patch that decides, and ignores padding."""

import pytest
import torch
from torch import Tensor

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.source import Source
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.vit import ViT
from mezzotint.evaluation.attentive import Attentive, PatchTokens, _Head
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.suite import baselines, evaluate_encoder
from mezzotint.types import Features, Input


def one_decides(count: int, seed: int) -> Features:
    """Twelve noisy patches; the one marked in channel 0 has the class, the others any."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=draws)
    classes = torch.randint(4, (count, 12), generator=draws)
    marked = torch.randint(12, (count,), generator=draws)
    classes[torch.arange(count), marked] = y
    x = torch.cat(
        [torch.zeros(count, 12, 1), torch.nn.functional.one_hot(classes, 4)], dim=2
    ).float()
    x[torch.arange(count), marked, 0] = 2.0
    return Features(x + 0.1 * torch.randn(x.shape, generator=draws), y)


def test_where_one_patch_decides_it_beats_the_mean() -> None:
    train, test = one_decides(400, 0), one_decides(200, 1)
    found = {row.metric: row.value for row in Attentive().run(train, test)}
    mean = Linear().run(Features(train.x.mean(1), train.y), Features(test.x.mean(1), test.y))
    pooled = {row.metric: row.value for row in mean}
    assert found["top1"] > 0.95 and pooled["top1"] < 0.6


def test_it_is_repeatable_and_seeds_differ() -> None:
    train, test = one_decides(60, 0), one_decides(60, 1)
    once, again = (
        [row.value for row in Attentive(epochs=5).run(train, test, seeds=2)] for _ in range(2)
    )
    assert once == again and once[0] != once[2]


def test_attention_is_that_of_torch() -> None:
    head = _Head(5, 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.query.normal_()
        head.weight.normal_()
    x = torch.randn(7, 4, 5)
    query = head.query.expand(7, -1, -1)
    wanted = (
        torch.nn.functional.scaled_dot_product_attention(query, x, x, scale=1.0).flatten(1)
        @ head.weight.T
    )
    torch.testing.assert_close(head.scores(x), wanted + head.bias)


def test_several_labels_are_scored_by_average_precision() -> None:
    train, test = one_decides(200, 0), one_decides(100, 1)
    several = [
        Features(f.x, torch.nn.functional.one_hot(f.y, 4).bool())
        for f in (train, test)
        if f.y is not None
    ]
    found = {row.metric: row.value for row in Attentive(epochs=20).run(*several)}
    assert found.keys() == {"map", "auc"} and found["map"] > 0.8


def test_padding_is_left_out() -> None:
    head = _Head(5, 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.weight.normal_()
    x = torch.randn(3, 4, 5)
    padded = torch.cat([x, torch.full((3, 2, 5), torch.nan)], dim=1)
    torch.testing.assert_close(head.scores(padded), head.scores(x))
    encoder = ViT(Input((6,), (), (), "tokens", 30), width=8, depth=1, heads=2)
    tokens = PatchTokens(encoder)(torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 0, 0, 0]])).view(
        2, 6, 8
    )
    assert tokens.isnan().any(-1).tolist() == [[False] * 6, [False] * 3 + [True] * 3]


class Few(EmbeddedImages):
    """The first of the digits."""

    def evaluation(self) -> tuple[Source, list[object]]:  # type: ignore[override]
        source, tasks = super().evaluation()
        from dataclasses import replace

        return source, [replace(tasks[0], train=tasks[0].train[:60], test=tasks[0].test[:40])]


def test_it_stands_beside_the_others_for_the_encoder_and_the_untrained_one() -> None:
    source = Few(name="digits")

    def build(seed: int) -> ViT:
        torch.manual_seed(seed)
        return ViT(source.input, width=16, depth=1, heads=2, patch=4)

    probes = (Attentive(epochs=5), Linear())
    rows = evaluate_encoder(Measurement(build(3), source), probes=probes, seeds=1).rows
    compared = baselines(Measurement(build(3), source), build, probes=probes, seeds=1)
    for found in (rows, compared.untrained):
        names = {row.probe for row in found}
        assert {"attentive", "linear"} <= names
    row = next(row for row in rows if row.probe == "attentive")
    assert row.metric == "digit/holdout/top1" and str(row.protocol).endswith("train=60 test=40")
    assert "attentive" not in {row.probe for row in compared.raw}  # raw input has no patches


def test_an_encoder_without_patches_is_refused() -> None:
    source = EmbeddedImages(name="digits")
    with pytest.raises(ValueError, match=r"needs an encoder with patch tokens, got resnet18"):
        evaluate_encoder(
            Measurement(resnet18(source.input, stem="small", width=2), source),
            probes=(Attentive(),),
        )


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`heads` must be 1 or more, .* got heads=0"):
        Attentive(heads=0)


def test_queries_start_at_the_mean() -> None:
    head = _Head(5, 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.query.zero_()
        head.weight.copy_(torch.randn(3, 10))
    x: Tensor = torch.randn(4, 6, 5)
    torch.testing.assert_close(head.scores(x), x.mean(1).repeat(1, 2) @ head.weight.T)
