"""SSQL: what the wrapper adds, against the base method and against the loss written out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.methods.byol import BYOL
from mezzotint.methods.mocov3 import MoCoV3
from mezzotint.methods.siamese import Siamese
from mezzotint.methods.simclr import SimCLR
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.quant.bitwidth import Quantizers
from mezzotint.quant.fake import Quantizer
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
BASES: dict[str, Callable[..., Siamese]] = {
    "simsiam": lambda e: SimSiam(e, dim=16, hidden_dim=8),
    "simclr": lambda e: SimCLR(e, hidden_dim=16, dim=8),
    "byol": lambda e: BYOL(e, hidden_dim=16, dim=8),
    "mocov3": lambda e: MoCoV3(e, hidden_dim=16, dim=8),
}
each_base = pytest.mark.parametrize("name", BASES)


def base(name: str, seed: int = 0) -> Siamese:
    torch.manual_seed(seed)
    return BASES[name](resnet8(INPUT, stem="small", width=8)).train()


def ssql(name: str = "simsiam", seed: int = 0, **keywords: object) -> SSQL:
    """SSQL in the authors' arithmetic."""
    inner = base(name, seed)
    return SSQL(inner.encoder, base=inner, **{"ties": "published", **keywords}).train()  # type: ignore[arg-type]


def views(step: int = 0, batch: int = 8) -> Views:
    generator = torch.Generator().manual_seed(50 + step)
    x = tuple(torch.randn(batch, 3, 16, 16, generator=generator) for _ in range(2))
    return Views(x, ("global", "global"), Draws(torch.arange(batch), key_of(3, step)))


def run_off(method: SSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every width be 32: the network at low bits is then the float one."""
    monkeypatch.setattr(Quantizers, "set_bits", lambda self, weight, activation: self.set_off())


@each_base
def test_with_bits_off_the_loss_is_the_base_methods_exactly(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = base(name)(views()).loss
    method = ssql(name)
    run_off(method, monkeypatch)
    step = method(views())
    assert torch.equal(step.logs["float_loss"], expected.detach())
    torch.testing.assert_close(step.loss, expected)


@each_base
def test_float_loss_is_the_base_methods_while_low_bits_differ(name: str) -> None:
    step = ssql(name, weight_bits=(2, 2), activation_bits=(4, 4))(views())
    assert torch.equal(step.logs["float_loss"], base(name)(views()).loss.detach())
    assert not torch.equal(step.logs["low_bits_loss"], step.logs["float_loss"])
    assert step.logs["low_bits_cosine"] < 0.999


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    return -nn.functional.cosine_similarity(p, z.detach()).mean()


def test_loss_equals_the_authors_formula_step_by_step() -> None:
    """Spec 1.2: L = ½ [D(p1,z2)+D(p2,z1)]/2 + ½ [D(p1q,z2)+D(p2q,z1)]/2 with float targets."""
    method = ssql(weight_bits=(3, 3), activation_bits=(5, 5))
    found = method(views()).loss
    other = ssql(weight_bits=(3, 3), activation_bits=(5, 5))
    inner = other.base
    assert isinstance(inner, SimSiam)
    parts = Quantizers.of(inner.encoder)
    projector = Quantizers.of(inner.projector)
    x1, x2 = views().x
    parts.start_observing()
    z1, z2 = inner.projector(inner.encoder(x1)), inner.projector(inner.encoder(x2))
    parts.stop_observing()
    p1, p2 = inner.predictor(z1), inner.predictor(z2)
    parts.set_bits(3, 5)
    projector.set_bits(8, 32)
    q1, q2 = (inner.predictor(inner.projector(inner.encoder(x))) for x in (x1, x2))
    expected = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 4
    expected = expected + (negative_cosine(q1, z2) + negative_cosine(q2, z1)) / 4
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    found.backward()
    expected.sum().backward()
    for (key, a), b in zip(method.base.named_parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_targets_get_no_gradient_from_the_low_bit_loss() -> None:
    """With `float_loss` off, a target that leaked gradient would let SimSiam collapse."""
    inner = base("simclr")
    method = SSQL(inner.encoder, base=inner, float_loss=False)
    seen: list[bool] = []
    compare = inner.compare

    def spy(ps: list[Tensor], ts: dict[int, Tensor], v: Views) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(any(t.requires_grad for t in ts.values()))
        return compare(ps, ts, v)

    inner.compare = spy  # type: ignore[assignment, method-assign]
    method(views())
    assert seen == [True, False]


def test_widths_are_drawn_uniformly_from_seed_and_step_alone() -> None:
    method = ssql()
    draws = [
        method.draw_bits(Draws(torch.arange(rank * 3, rank * 3 + 2), key_of(1, s)))
        for s in range(600)
        for rank in (0, 1)
    ]
    weights, activations = (torch.stack(column).view(600, 2) for column in zip(*draws, strict=True))
    assert torch.equal(weights[:, 0], weights[:, 1]) and torch.equal(
        activations[:, 0], activations[:, 1]
    )
    assert set(weights[:, 0].tolist()) == set(range(2, 9))
    assert set(activations[:, 0].tolist()) == set(range(4, 9))
    counts = torch.bincount(weights[:, 0].long(), minlength=9)[2:]
    assert counts.min() > 50 and counts.max() < 125  # 600 / 7 = 86
    joint = torch.stack([weights[:, 0], activations[:, 0]])
    assert torch.corrcoef(joint)[0, 1].abs() < 0.12


def test_shared_bits_gives_both_sides_one_width() -> None:
    method = ssql(shared_bits=True, weight_bits=(4, 8))
    for step in range(20):
        weight, activation = method.draw_bits(views(step).draws)
        assert torch.equal(weight, activation) and 4 <= weight <= 8


def test_ranges_are_taken_anew_each_step_from_both_views() -> None:
    method = ssql()
    method(views(0))
    act = method.encoder.get_submodule("act1")
    first = act.output_quantizer.high.clone()  # type: ignore[union-attr, operator]
    big = views(0)
    big.x[1][0, :, 4, 4] = 40.0  # one bright pixel of the second view
    method(big)
    second = act.output_quantizer.high.clone()  # type: ignore[union-attr, operator]
    assert second > 1.5 * first
    method(views(0))
    assert act.output_quantizer.high < second / 1.5  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("mode, counts", [("shared", 4), ("frozen", 2)])
def test_batch_norm_counts_four_passes_a_step_or_only_the_float_ones(
    mode: str, counts: int
) -> None:
    method = ssql(batch_norm=mode)
    method(views())
    assert int(method.encoder.get_submodule("bn1").num_batches_tracked) == counts  # type: ignore[arg-type]


def test_frozen_statistics_equal_those_of_the_base_method() -> None:
    plain = base("simsiam")
    plain(views())
    method = ssql(batch_norm="frozen")
    method(views())
    for name, buffer in plain.encoder.named_buffers():
        torch.testing.assert_close(method.encoder.get_buffer(name), buffer, msg=name)


def test_reverse_gives_gradient_to_the_float_branch_only() -> None:
    method = ssql(reverse=True, float_loss=False, weight_bits=(4, 4), activation_bits=(4, 4))
    step = method(views())
    step.loss.backward()
    inner = base("simsiam")
    zs, ps = inner.online(views())
    twin = ssql(weight_bits=(4, 4), activation_bits=(4, 4))
    parts = Quantizers.of(twin.encoder)
    parts.start_observing()
    twin.base.online(views())
    parts.stop_observing()
    parts.set_bits(4, 4)
    Quantizers.of(twin.base.get_submodule("projector")).set_bits(8, 32)
    tqs, _ = twin.base.online(views())
    expected = (negative_cosine(ps[0], tqs[1]) + negative_cosine(ps[1], tqs[0])) / 2
    torch.testing.assert_close(step.loss, expected)
    expected.sum().backward()
    for (key, a), b in zip(method.base.named_parameters(), inner.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)


def test_quantized_pairs_add_a_third_term() -> None:
    two = ssql(weight_bits=(4, 4), activation_bits=(4, 4))(views())
    three = ssql(weight_bits=(4, 4), activation_bits=(4, 4), quantized_pairs=True)(views())
    added = 3 * three.loss - 2 * two.loss
    assert -1.0 <= added <= 1.0 and not torch.allclose(added, two.logs["low_bits_loss"], atol=1e-4)


@pytest.mark.parametrize("keyword", ["reverse", "quantized_pairs"])
def test_targets_of_a_momentum_copy_cannot_be_taken_at_low_bits(keyword: str) -> None:
    with pytest.raises(ValueError, match="Choose SimSiam or SimCLR"):
        ssql("byol", **{keyword: True})


def test_momentum_copies_stay_float() -> None:
    method = ssql("byol")
    assert isinstance(method.base, BYOL)
    assert not any(isinstance(m, Quantizer) for m in method.base.target_encoder.modules())
    before = [p.clone() for p in method.base.target_encoder.parameters()]
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(1.0)
    method.after_step(0.5)
    assert all(
        not torch.equal(a, b)
        for a, b in zip(before, method.base.target_encoder.parameters(), strict=True)
    )


def test_state_holds_every_weight_once() -> None:
    names = [name for name in ssql().state_dict() if name.endswith("layer1.0.conv1.weight")]
    assert names == ["base.encoder.layer1.0.conv1.weight"]


def test_predictor_stays_float_and_projector_has_eight_bits() -> None:
    inner = ssql().base
    assert isinstance(inner, SimSiam)
    assert not any(isinstance(m, Quantizer) for m in inner.predictor.modules())
    assert len(Quantizers.of(inner.projector).weights) == 3
    assert not Quantizers.of(inner.projector).activations


def test_encoder_is_off_outside_the_step_and_keeps_its_ranges_when_saved(tmp_path: object) -> None:
    method = ssql()
    method(views())
    encoder = method.encoder.eval()
    x = views().x[0]
    plain = encoder(x)
    with quant.bits(encoder, weight=4, activation=4):
        low = encoder(x)
    assert not torch.equal(plain, low)
    again = load_encoder(save_encoder(encoder, str(tmp_path)))
    assert torch.equal(again(x), plain)
    with quant.bits(again, weight=4, activation=4):
        assert torch.equal(again(x), low)


def test_base_with_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="the same encoder object"):
        SSQL(resnet8(INPUT, width=8), base=base("simsiam"))


@pytest.mark.parametrize("bad", [(1, 8), (5, 4), (2, 9)])
def test_bits_outside_two_to_eight_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="lowest and the highest bits, 2 to 8"):
        ssql(weight_bits=bad)
