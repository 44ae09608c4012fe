"""Supervised training: the losses, mixing, what is held still, and where it starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from mezzotint.augment.masking import AxesMask
from mezzotint.augment.mixing import Mixing
from mezzotint.encoders.resnet import ResNet, resnet8
from mezzotint.encoders.saving import save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.supervised import Supervised, start_from
from mezzotint.quant.bitwidth import bits, calibrate
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = torch.tensor([0, 2, 1, 2, 0, 1])
NUMBERED = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16)


def encoder(seed: int = 0, width: int = 4) -> ResNet:
    torch.manual_seed(seed)
    return resnet8(INPUT, stem="small", width=width)


def supervised(**keys: Any) -> Supervised:
    made = encoder()
    torch.manual_seed(1)
    return Supervised(made, **{"num_classes": 3, **keys}).train()


def views(count: int = 1, step: int = 0) -> Views:
    generator = torch.Generator().manual_seed(step)
    x = tuple(torch.randn(6, 3, 16, 16, generator=generator) for _ in range(count))
    return Views(x, ("global",) * count, Draws(torch.arange(6), key_of(0, step)), LABELS)


def logits_of(method: Supervised, v: Views) -> list[torch.Tensor]:
    return [method.head(method.encoder(x)) for x in v.x]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_views_and_single_aug_takes_the_first(smoothing: float) -> None:
    v = views(2)
    one, two = logits_of(supervised(), v)
    losses = [
        cross_entropy(one, LABELS, label_smoothing=smoothing),
        cross_entropy(two, LABELS, label_smoothing=smoothing),
    ]
    torch.testing.assert_close(supervised(label_smoothing=smoothing)(v).loss, sum(losses) / 2)
    single = supervised(label_smoothing=smoothing, single_aug=True)(v)
    torch.testing.assert_close(single.loss, losses[0])
    torch.testing.assert_close(single.loss, supervised(label_smoothing=smoothing)(views(1)).loss)
    assert single.logs["accuracy"] == (one.argmax(1) == LABELS).float().mean()


def test_binary_loss_of_several_labels() -> None:
    several = torch.tensor(
        [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool
    )
    v = replace(views(), labels=several)
    (logits,) = logits_of(supervised(), v)
    torch.testing.assert_close(
        supervised(loss="binary")(v).loss, binary_cross_entropy_with_logits(logits, several.float())
    )
    (single,) = logits_of(supervised(), views())
    expected = binary_cross_entropy_with_logits(single, one_hot(LABELS, 3).float())
    torch.testing.assert_close(supervised(loss="binary")(views()).loss, expected)


def test_mixup_blends_samples_and_targets_by_the_same_weight() -> None:
    draws = views().draws
    mixed, target = Mixing(mixup=1.0)(NUMBERED, one_hot(torch.arange(6) % 3, 3).float(), draws)
    again, _ = Mixing(mixup=1.0)(NUMBERED, one_hot(LABELS, 3).float(), draws)
    assert torch.equal(mixed, again)  # a function of the key
    keep = target[torch.arange(6), torch.arange(6) % 3]
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    value = mixed[:, 0, 0, 0]
    for row in range(
        6
    ):  # x = keep · own + (1 − keep) · partner, for one partner that is not itself
        fits = [
            p
            for p in range(6)
            if p != row and torch.isclose(value[row], keep.min() * row + (1 - keep.min()) * p)
        ]
        assert len(fits) == 1
    other, _ = Mixing(mixup=1.0)(NUMBERED, target, views(step=1).draws)
    assert not torch.equal(other, mixed)


@pytest.mark.parametrize("p", [1.0, 0.5])
def test_cutmix_pastes_a_box_and_weighs_by_its_area(p: float) -> None:
    seen, untouched = set(), 0
    for step in range(8):
        own = one_hot(torch.arange(6) % 3, 3).float()
        mixed, target = Mixing(cutmix=1.0, p=p)(NUMBERED, own, views(step=step).draws)
        kept = (mixed == NUMBERED).float().mean(dim=(1, 2, 3))
        foreign = mixed.amax(dim=(1, 2, 3)) + mixed.amin(dim=(1, 2, 3)) - torch.arange(6.0)
        expected = kept[:, None] * own + (1 - kept)[:, None] * one_hot(foreign.long() % 3, 3)
        torch.testing.assert_close(target, expected)
        seen |= set(kept.tolist())
        untouched += int((kept == 1).sum())
    assert len(seen) > 4 and (untouched > 10) == (p < 1)
    with pytest.raises(ValueError, match=r"CutMix takes images \[B, C, H, W\], got \[6, 4\]"):
        Mixing(cutmix=1.0)(torch.zeros(6, 4), own, views().draws)


def test_mixup_of_a_share_of_the_samples_each_by_its_own_weight() -> None:
    """As AST mixes audio: half of the clips, by weights of Beta(10, 10)."""
    count = 4000
    x, target = torch.eye(2).repeat(count // 2, 1), torch.eye(2).repeat(count // 2, 1)
    mixing, draws = (
        Mixing(mixup=10.0, p=0.5, per_sample=True),
        Draws(torch.arange(count), key_of(0, 3)),
    )
    mixed, targets = mixing(x, target, draws)
    assert torch.equal(mixed, targets)
    own = (mixed * x).sum(1)
    blended = own[own < 1]  # partners of the other kind: half of those that are mixed
    assert len(blended) == pytest.approx(count / 4, rel=0.1)
    assert float(blended.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(blended.var()) == pytest.approx(1 / 84, rel=0.15)  # α² / ((2α)² (2α + 1))
    # Whether a sample is mixed, and by what weight, is its own draw and not its place's.
    few = Draws(torch.arange(10, 20), key_of(0, 3))
    alone = (mixing(x[10:20], x[10:20], few)[0] * x[10:20]).sum(1)
    both = (alone < 1) & (own[10:20] < 1)
    assert both.any() and torch.equal(alone[both], own[10:20][both])


@pytest.mark.parametrize("bits", [None, "W4A4"])
def test_patches_are_dropped_in_training_alone(bits: str | None) -> None:
    """Whole times and frequencies, of any number; what is left gives the feature."""
    torch.manual_seed(0)
    spectrogram = Input((1, 16, 64), (0.0,), (1.0,), "audio")
    vit = ViT(spectrogram, width=12, depth=1, heads=2, patch=4)
    drop = AxesMask(ratios=[0.25, 0.5])
    method = Supervised(vit, num_classes=3, drop=drop, bits=bits).train()
    for frames in (64, 32):  # of a shorter clip, too
        v = Views(
            (torch.randn(6, 1, 16, frames),),
            ("global",),
            Draws(torch.arange(6), key_of(0, frames)),
            LABELS,
        )
        keep, _ = drop.draw((4, frames // 4), v.draws.fold("drop", 0))
        assert keep.shape == (6, 3 * frames // 8)
        whole = method.eval()(v).loss
        method.train()
        if bits is None:
            expected = cross_entropy(method.head(vit.tokens(v.x[0], keep).mean(dim=1)), LABELS)
            torch.testing.assert_close(method(v).loss, expected)
            torch.testing.assert_close(whole, cross_entropy(method.head(vit(v.x[0])), LABELS))
        assert not torch.isclose(method(v).loss, whole)
    with pytest.raises(ValueError, match="has no patches, which the method needs"):
        supervised(drop=drop)


def test_a_frozen_encoder_changes_in_nothing() -> None:
    method = supervised(freeze=True, logit_norm=True)
    before = {name: t.clone() for name, t in method.encoder.state_dict().items()}
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    method.train()
    method(views()).loss.backward()
    optimizer.step()
    assert not method.encoder.training and isinstance(method.logit_norm, nn.BatchNorm1d)
    assert len(trained) == 4
    assert all(torch.equal(t, before[name]) for name, t in method.encoder.state_dict().items())


def test_starts_from_a_saved_encoder_with_its_normalization(tmp_path: Path) -> None:
    other = Input((3, 16, 16), (0.1, 0.2, 0.3), (0.9, 0.8, 0.7))
    torch.manual_seed(5)
    saved = resnet8(other, stem="small", width=4)
    save_encoder(saved, tmp_path / "e")
    method = supervised(init=str(tmp_path / "e"))
    assert torch.equal(
        method.encoder.state_dict()["conv1.weight"], saved.state_dict()["conv1.weight"]
    )
    assert method.encoder.input == other
    with pytest.raises(ValueError, match="differs from the encoder of the recipe"):
        start_from(encoder(width=8), str(tmp_path / "e"))
    with pytest.raises(
        ValueError, match=r"takes samples of shape \[3, 16, 16\], but the data has \[3, 8, 8\]"
    ):
        start_from(
            resnet8(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), stem="small", width=4),
            str(tmp_path / "e"),
        )


def test_training_at_low_bits_differs_from_float_and_reaches_every_weight() -> None:
    method, plain = supervised(bits="W4A4"), supervised()
    step = method(views())
    step.loss.backward()
    assert not torch.allclose(step.loss, plain(views()).loss)
    assert method.encoder.quantization == "ssql"
    for name, p in method.encoder.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    counts = {
        float(m.num_batches_tracked or 0)
        for m in method.encoder.modules()
        if isinstance(m, nn.BatchNorm2d)
    }
    assert counts == {1}  # the pass that takes the ranges leaves the statistics alone


def test_a_frozen_encoder_is_quantized_once_and_its_head_learns_from_these_features() -> None:
    """SSQL's linear evaluation in its own words: calibrate in fp32, quantize, train the head."""
    method = supervised(bits="W3A4", freeze=True)
    weights = {name: p.clone() for name, p in method.encoder.named_parameters()}
    step = method(views())
    by_hand = encoder()
    torch.manual_seed(1)
    head = Supervised(by_hand, num_classes=3).head
    make_encoder_quantizable(by_hand, "ssql")
    calibrate(by_hand, views().x)
    for number in range(2):  # the second batch does not move the ranges of the first
        (x,) = views(step=number).x
        with bits(by_hand.eval(), weight=3, activation=4), torch.no_grad():
            features = by_hand(x)
        step = method(views(step=number))
        expected = cross_entropy(head(features), LABELS)
        torch.testing.assert_close(step.loss.detach(), expected)
        method.zero_grad()
        step.loss.backward()
        head.zero_grad()
        torch.autograd.backward(expected)
        torch.testing.assert_close(method.head.weight.grad, head.weight.grad)
    assert not torch.allclose(step.loss, supervised(freeze=True)(views(step=1)).loss)
    for name, p in method.encoder.named_parameters():
        assert p.grad is None and torch.equal(p, weights[name]), name
    norms = [m for m in method.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.num_batches_tracked == 0 for m in norms)


def test_a_resumed_head_keeps_the_ranges() -> None:
    first, resumed = (supervised(bits="W4A4", freeze=True) for _ in range(2))
    first(views())
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(resumed(views(step=1)).loss, first(views(step=1)).loss)
    fresh = supervised(bits="W4A4", freeze=True)
    assert not torch.equal(fresh(views(step=1)).loss, first(views(step=1)).loss)
    assert "calibrated" not in supervised(bits="W4A4").state_dict()
    assert supervised(bits="fp32", freeze=True).frozen_bits is None


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"num_classes": 0}, "num_classes` must be at least 1, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing` must be in \[0, 1\), got 1.0"),
        ({"bits": "W1A4"}, "`method.bits` must be 2 to 8, or 32 for fp32, got W1A4"),
    ],
)
def test_settings_out_of_range_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        supervised(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"mixup": -1.0},
        {},
        {"mixup": 1.0, "p": 0.0},
        {"mixup": 1.0, "cutmix": 1.0, "per_sample": True},
    ],
)
def test_mixing_out_of_range_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^`.* must be .*, got .*\. [A-Z]"):
        Mixing(**keys)


@pytest.mark.parametrize(
    "labels, message",
    [
        (None, "supervised needs labels"),
        (
            LABELS + 1,
            r"Labels must be 0 to 2, got 1 to 3. Set method.num_classes=4",
        ),
        (torch.ones(6, 3, dtype=torch.bool), "one column per class with loss=binary"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        supervised()(replace(views(), labels=labels))
