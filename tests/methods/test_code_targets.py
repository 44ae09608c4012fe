"""Codes as targets: cross-entropy, soft targets and the cache."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mezzotint.methods.code_targets import Targets, TokenCache, checksum, code_loss
from mezzotint.seeding import Draws
from tests.methods.tiny_bridle import bridle, patterned, views


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
