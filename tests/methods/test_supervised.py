"""Supervised training: the losses, mixing, what is held still, and where it starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from mezzotint.encoders.resnet import ResNet, resnet8
from mezzotint.encoders.saving import save_encoder
from mezzotint.methods.supervised import Supervised, start_from
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = torch.tensor([0, 2, 1, 2, 0, 1])


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
    several = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)
    v = replace(views(), labels=several)
    (logits,) = logits_of(supervised(), v)
    torch.testing.assert_close(
        supervised(loss="binary")(v).loss, binary_cross_entropy_with_logits(logits, several.float())
    )
    (single,) = logits_of(supervised(), views())
    expected = binary_cross_entropy_with_logits(single, one_hot(LABELS, 3).float())
    torch.testing.assert_close(supervised(loss="binary")(views()).loss, expected)


def test_mixup_blends_samples_and_targets_by_the_same_weight() -> None:
    method = supervised(mixup=1.0)
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    draws = views().draws
    mixed, target = method._mixed(x, torch.arange(6) % 3, draws)
    again, _ = method._mixed(x, torch.arange(6) % 3, draws)
    assert torch.equal(mixed, again)  # a function of the key
    keep = target[torch.arange(6), torch.arange(6) % 3]
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    value = mixed[:, 0, 0, 0]
    for row in range(6):  # x = keep · own + (1 − keep) · partner, for one partner that is not itself
        fits = [p for p in range(6) if p != row and torch.isclose(value[row], keep.min() * row + (1 - keep.min()) * p)]
        assert len(fits) == 1
    other = supervised(mixup=1.0)._mixed(x, LABELS, views(step=1).draws)[0]
    assert not torch.equal(other, mixed)


def test_cutmix_pastes_a_box_and_weighs_by_its_area() -> None:
    method = supervised(cutmix=1.0)
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 16, 16)
    seen = set()
    for step in range(8):
        mixed, target = method._mixed(x, torch.arange(6) % 3, views(step=step).draws)
        kept = (mixed == x).float().mean(dim=(1, 2, 3))
        foreign = mixed.amax(dim=(1, 2, 3)) + mixed.amin(dim=(1, 2, 3)) - torch.arange(6.0)
        expected = kept[:, None] * one_hot(torch.arange(6) % 3, 3) + (1 - kept)[:, None] * one_hot(
            foreign.long() % 3, 3
        )
        torch.testing.assert_close(target, expected)
        seen.add(float(kept[0]))
    assert len(seen) > 4
    with pytest.raises(ValueError, match=r"cutmix cuts boxes out of \[B, C, H, W\], got \[6, 4\]"):
        method._mixed(torch.zeros(6, 4), LABELS, views().draws)


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


def test_starts_from_a_saved_encoder_with_its_normalisation(tmp_path: Path) -> None:
    other = Input((3, 16, 16), (0.1, 0.2, 0.3), (0.9, 0.8, 0.7))
    torch.manual_seed(5)
    saved = resnet8(other, stem="small", width=4)
    save_encoder(saved, tmp_path / "e")
    method = supervised(init=str(tmp_path / "e"))
    assert torch.equal(method.encoder.state_dict()["conv1.weight"], saved.state_dict()["conv1.weight"])
    assert method.encoder.input == other
    with pytest.raises(ValueError, match="that is not the encoder of this recipe"):
        start_from(encoder(width=8), str(tmp_path / "e"))
    with pytest.raises(ValueError, match=r"takes samples of shape \[3, 16, 16\], and the data has \[3, 8, 8\]"):
        start_from(resnet8(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), stem="small", width=4), str(tmp_path / "e"))


def test_training_at_low_bits_differs_from_float_and_reaches_every_weight() -> None:
    method, plain = supervised(bits=(4, 4)), supervised()
    step = method(views())
    step.loss.backward()
    assert not torch.allclose(step.loss, plain(views()).loss)
    assert method.encoder.quantization == "ssql"
    for name, p in method.encoder.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    counts = {float(m.num_batches_tracked or 0) for m in method.encoder.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts == {1}  # the pass that takes the ranges leaves the statistics alone


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"mixup": -1.0}, "mixup=-1.0"),
        ({"bits": (1, 4)}, r"got bits=\[1, 4\]"),
        ({"bits": (4, 4), "freeze": True}, "leave freeze out"),
    ],
)
def test_settings_out_of_range_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        supervised(**keys)


@pytest.mark.parametrize(
    "labels, message",
    [
        (None, "supervised takes labelled samples"),
        (LABELS + 1, r"labels from 1 to 3 for num_classes=3; allowed are 0 to 2: set method.num_classes=4"),
        (torch.ones(6, 3, dtype=torch.bool), "with loss=binary one column a class"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        supervised()(replace(views(), labels=labels))
