"""Methods and encoders of this package in muP: roles, initialization, refusals, copies."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim.muon import Muon
from mezzotint.optim.mup.method import MuP, apply_mup, at_width, build, restore_roles, roles_of
from mezzotint.optim.mup.shapes import growth
from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

IMAGE = Input((3, 16, 16), (0.5,) * 3, (0.25,) * 3)
AUDIO = Input((1, 16, 16), (0.0,), (1.0,), modality="audio")
TABLE = Input((24,), (0.0,) * 24, (1.0,) * 24, modality="table")
POINTS = Input((3, 64), (0.0,) * 3, (1.0,) * 3, modality="points")
SERIES = Input((3, 32), (0.0,) * 3, (1.0,) * 3, modality="series")
ENCODERS: dict[str, tuple[Input, Any]] = {
    "mlp": (TABLE, lambda w: {"kind": "table_mlp", "width": w}),
    "resnet": (IMAGE, lambda w: {"kind": "resnet8", "stem": "patch", "width": w}),
    "vit": (IMAGE, lambda w: {"kind": "vit", "width": w, "heads": w // 8, "depth": 2, "patch": 8}),
    "audio": (AUDIO, lambda w: {"kind": "audio_ntt", "width": w, "dim": 4 * w, "dropout": 0.0}),
    "pointnet": (POINTS, lambda w: {"kind": "pointnet", "width": w, "transformers": "input"}),
    "resnet1d": (SERIES, lambda w: {"kind": "resnet1d", "width": w, "depths": [1, 1]}),
    "domain_agnostic": (IMAGE, lambda w: {"kind": "domain_agnostic", "width": w, "heads": w // 8,
                                          "depth": 2, "patch": 8, "dropout": 0.0}),
}  # fmt: skip
METHODS: dict[str, Any] = {
    "xent": lambda w: {"kind": "supervised", "num_classes": 10},
    "infonce": lambda w: {"kind": "simclr", "hidden_dim": 2 * w, "dim": w, "last_norm": False},
    "simclr": lambda w: {"kind": "simclr", "hidden_dim": 2 * w, "dim": 16},
    "byol": lambda w: {"kind": "byol", "hidden_dim": 2 * w, "dim": w},
    "mocov3": lambda w: {"kind": "mocov3", "hidden_dim": 2 * w, "dim": 16},
    "moco": lambda w: {"kind": "moco", "hidden_dim": 2 * w, "dim": w, "queue_size": 64},
    "simsiam": lambda w: {"kind": "simsiam", "hidden_dim": w, "dim": 2 * w},
    "dino": lambda w: {"kind": "dino", "hidden_dim": 2 * w, "dim": w, "prototypes": 32},
    "lejepa": lambda w: {"kind": "lejepa", "hidden_dim": 2 * w, "dim": w, "slices": 16},
    "ssql": lambda w: {
        "kind": "ssql",
        "base": {"kind": "simclr", "hidden_dim": 2 * w, "dim": 16},
    },
}
OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda: AdamW(lr=3e-3, weight_decay=0.1),
    "sgd": lambda: SGD(lr=0.02),
    "lars": lambda: LARS(lr=0.25, trust=0.1),
    "muon": lambda: Muon(lr=0.02),
}


def made(encoder: str, method: str, width: int, base: int | None = None, seed: int = 0) -> Any:
    input, section = ENCODERS[encoder]
    torch.manual_seed(seed)
    built = build(section(width), METHODS[method](width), input)
    return built if base is None else apply_mup(built, base_width=base)


def views(encoder: str, batch: int = 16) -> Views:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *ENCODERS[encoder][0].shape, generator=generator)
    pair = tuple(x + 0.3 * torch.randn(x.shape, generator=generator) for _ in range(2))
    labels = torch.randint(10, (batch,), generator=generator)
    return Views(pair, ("global", "global"), Draws(torch.arange(batch), 0), labels=labels)


def step(method: Any, optimizer: torch.optim.Optimizer, batch: Views) -> float:
    loss = method(batch).loss
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    method.after_step(0.5)
    return float(loss.detach())


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_at_the_base_width_training_is_bit_equal(encoder: str, optimizer: str) -> None:
    plain, scaled = made(encoder, "byol", 16), made(encoder, "byol", 16, base=16)
    settings: Optimizer = OPTIMIZERS[optimizer]()
    first, second = settings.build(plain, 16), settings.build(scaled, 16)
    for one, other in zip(first.param_groups, second.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {
            k: v for k, v in other.items() if k != "params"
        }
    for _ in range(2):
        assert step(plain, first, views(encoder)) == step(scaled, second, views(encoder))
    for (name, p), q in zip(plain.state_dict().items(), scaled.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


ROLES = {
    "resnet": {"conv1.weight": "input", "layer2.0.conv1.weight": "hidden", "bn1.weight": "vector",
               "layer2.0.downsample.0.weight": "hidden"},
    "vit": {"patches.project.weight": "input", "blocks.0.attn.qkv.weight": "hidden",
            "blocks.1.mlp.2.weight": "hidden", "norm.bias": "vector"},
    "audio": {"features.0.weight": "input", "features.4.weight": "hidden", "fc.0.weight": "hidden",
              "fc.3.weight": "hidden", "fc.0.bias": "vector"},
    "pointnet": {"local.0.0.weight": "input", "rest.2.weight": "hidden",
                 "align_input.matrix.weight": "output", "align_input.matrix.bias": "scalar"},
    "resnet1d": {"stem.0.weight": "input", "blocks.1.conv2.weight": "hidden"},
    "domain_agnostic": {"patches.project.weight": "input", "cls": "input",
                        "places.table.weight": "input", "blocks.0.attn.qkv.weight": "hidden"},
    "mlp": {"layers.0.0.weight": "input", "layers.2.0.weight": "hidden"},
}  # fmt: skip


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_roles_of_encoders(encoder: str) -> None:
    grown = growth(made(encoder, "simclr", 32, base=16).encoder)
    for name, role in ROLES[encoder].items():
        assert grown[name].role == role, name
        assert role == "scalar" or grown[name].width == 2.0


def test_roles_of_heads() -> None:
    """A BatchNorm ends the head: its dimension stays. L2 alone: all dimensions are widths."""
    fixed = growth(made("resnet", "simclr", 32, base=16))
    assert fixed["projector.0.weight"].role == "hidden"
    assert fixed["projector.3.weight"].role == "output"
    free = growth(made("resnet", "byol", 32, base=16))
    assert free["projector.3.weight"].role == free["predictor.3.weight"].role == "hidden"
    v3 = growth(made("resnet", "mocov3", 32, base=16))
    assert v3["predictor.0.weight"].role == "input" and v3["predictor.3.weight"].role == "output"


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains_and_its_copies_start_as_the_trained_network(method: str) -> None:
    scaled = made("resnet", method, 32, base=16)
    inner = scaled.base if method == "ssql" else scaled
    parts = dict(inner.named_children())
    for name, part in parts.items():
        _, _, trained = name.partition("_")
        if name.startswith(("target_", "key_", "teacher_", "momentum_")) and trained in parts:
            for p, q in zip(part.parameters(), parts[trained].parameters(), strict=True):
                assert torch.equal(p, q), name
    optimizer = AdamW(lr=1e-3).build(scaled, 16)
    assert len(optimizer.param_groups) > 1
    losses = [step(scaled, optimizer, views("resnet")) for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("encoder", list(ENCODERS))
def test_deviations_are_those_of_the_base_width_or_shrink_with_fan_in(encoder: str) -> None:
    narrow, wide = made(encoder, "byol", 16), made(encoder, "byol", 64, base=16)
    grown, small = growth(wide), dict(narrow.named_parameters())
    for name, p in wide.named_parameters():
        before = float(small[name].detach().std()) if small[name].numel() > 200 else 0.0
        if before > 0.0:
            expected = 0.5 if grown[name].role == "hidden" else 1.0
            assert float(p.detach().std()) / before == pytest.approx(expected, rel=0.2), name


def test_the_generator_of_random_numbers_is_left_alone() -> None:
    plain = made("vit", "byol", 32)
    before = torch.get_rng_state()
    apply_mup(plain, base_width=16)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_groups_scale_and_schedules_keep_the_ratios(optimizer: str) -> None:
    settings: Optimizer = OPTIMIZERS[optimizer]()
    narrow = settings.build(made("vit", "byol", 32, base=32), 16)
    wide = settings.build(made("vit", "byol", 64, base=32), 16)
    rates = {n: g["lr"] for g in narrow.param_groups for n in g["param_names"]}
    scaled = {n: g["lr"] / rates[n] for g in wide.param_groups for n in g["param_names"]}
    hidden = {"adamw": 0.5, "sgd": 1.0, "lars": 0.5**0.5, "muon": 0.5**0.5}[optimizer]
    vector = {"adamw": 1.0, "sgd": 2.0, "lars": 2.0, "muon": 1.0}[optimizer]
    assert scaled["encoder.blocks.0.mlp.0.weight"] == pytest.approx(hidden)
    assert scaled["encoder.norm.weight"] == pytest.approx(vector)
    logged = settings.set_rates(wide, 0.25, 0.5)
    assert logged["lr"] == pytest.approx(settings.lr * 0.25)
    after = {n: g["lr"] / rates[n] for g in wide.param_groups for n in g["param_names"]}
    assert after == pytest.approx({n: 0.25 * factor for n, factor in scaled.items()})


def test_a_decay_that_changes_keeps_its_product_with_the_rate() -> None:
    settings = AdamW(lr=1e-3, weight_decay=0.1, final_weight_decay=0.4)
    optimizer = settings.build(made("vit", "byol", 64, base=32), 16)
    settings.set_rates(optimizer, 1.0, 0.5)
    products = [g["lr"] * g["weight_decay"] for g in optimizer.param_groups]
    assert products == pytest.approx([1e-3 * 0.25] * len(products))


class Unruled(Optimizer):
    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.groups(model, batch_size), lr=self.lr)


def test_an_optimizer_without_a_rule_is_refused() -> None:
    unruled = Unruled(0.1, 0.0, "none", "none", None)
    unruled.build(made("mlp", "byol", 16), 16)
    with pytest.raises(ValueError, match="Unruled has no rule for it"):
        unruled.build(made("mlp", "byol", 16, base=8), 16)


def test_a_predicted_matrix_that_grows_with_the_square_is_refused_by_name() -> None:
    section = {"kind": "pointnet", "width": 16, "transformers": "both"}
    method = build(section, METHODS["byol"](16), POINTS)
    with pytest.raises(ValueError, match=r"`encoder.align_features.matrix.weight` grows"):
        apply_mup(method, base_width=8)


def test_sections_at_another_width() -> None:
    encoder, method = at_width(
        {"kind": "vit", "width": 64, "heads": 4, "depth": 3},
        {"kind": "ssql", "base": {"kind": "byol", "hidden_dim": 128, "dim": 32}}, 0.5,
    )  # fmt: skip
    assert encoder == {"kind": "vit", "width": 32, "heads": 2, "depth": 3}
    assert method["base"] == {"kind": "byol", "hidden_dim": 64, "dim": 16}
    with pytest.raises(ValueError, match="`encoder.heads` of 3 would be 1.5 at 0.5 times"):
        at_width({"kind": "vit", "width": 48, "heads": 3}, {}, 0.5)
    with pytest.raises(ValueError, match="`encoder.kind: timm` has no `width`"):
        at_width({"kind": "timm", "name": "x"}, {}, 2.0)


def test_roles_are_plain_data_and_go_to_another_copy() -> None:
    scaled = made("pointnet", "byol", 32, base=16)
    roles = roles_of(scaled)
    assert roles is not None and roles["input"] == {
        f"{name}.align_input.matrix": 0.5 for name in ("encoder", "target_encoder")
    }
    again = made("pointnet", "byol", 32)
    again.load_state_dict(scaled.state_dict())
    restore_roles(again, roles)
    assert growth(again) == growth(scaled)
    x = views("pointnet").x[0]
    again.eval(), scaled.eval()
    assert torch.equal(again.encoder(x), scaled.encoder(x))
    assert roles_of(made("mlp", "byol", 16)) is None
    with pytest.raises(ValueError, match="must be those of the same architecture"):
        restore_roles(made("resnet", "byol", 32), roles)


def test_a_deepcopy_keeps_everything() -> None:
    scaled = made("resnet", "simclr", 32, base=16)
    twin = copy.deepcopy(scaled)
    assert growth(twin) == growth(scaled)
    assert step(twin, SGD(lr=0.1).build(twin, 16), views("resnet")) == step(
        scaled, SGD(lr=0.1).build(scaled, 16), views("resnet")
    )


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="`mup.base_width` must be at least 1, got 0"):
        MuP(base_width=0)
    with pytest.raises(ValueError, match="`mup.base_depth` must be at least 1, got 0"):
        MuP(base_width=8, base_depth=0)
    with pytest.raises(ValueError, match="has no `depth`"):
        MuP(base_width=8, base_depth=2).apply(made("resnet", "byol", 16))


@pytest.mark.parametrize("method", ["byol", "mae"])
def test_heads_may_grow_instead_of_becoming_more(method: str) -> None:
    """Logits of heads of 4 times the size are divided by 4 instead of 2: c / d with c = √d_base."""
    input, encoder = ENCODERS["vit"]
    own = {**encoder(64), "heads": 2}
    head = {"kind": "mae", "decoder": {"width": 64, "depth": 1, "heads": 2}}
    section = METHODS["byol"](64) if method == "byol" else head
    wide: Any = build(own, section, input)
    apply_mup(wide, base_width=16, attention="larger_heads")
    factors = {n: m.logit_factor for n, m in wide.named_modules() if hasattr(m, "logit_factor")}
    assert set(factors.values()) == {0.5} and any("blocks.1.attn" in name for name in factors)
    assert method == "byol" or any(name.startswith("decoder") for name in factors)
    attention = wide.encoder.blocks[0].attn
    x = torch.randn(3, 5, 64)
    q, k, v = attention.qkv(x).view(3, 5, 3, 2, 32).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(2, 3) * 8.0**0.5 / 32  # √d_base / d; the base has heads of 16 / 2
    expected = attention.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected)
    at_base: Any = build({**encoder(16), "heads": 2}, METHODS["byol"](16), input)
    apply_mup(at_base, base_width=16, attention="larger_heads")
    assert {m.logit_factor for m in at_base.modules() if hasattr(m, "logit_factor")} == {1.0}
    with pytest.raises(ValueError, match="`mup.attention` must be more_heads or larger_heads"):
        MuP(base_width=8, attention="more")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vit", "domain_agnostic"])
def test_residual_branches_are_scaled_by_depth(kind: str) -> None:
    """CompleteP: a network twice as deep as the base adds half of each branch."""
    input, encoder = ENCODERS[kind]
    method: Any = build({**encoder(16), "depth": 4}, METHODS["byol"](16), input)
    block: Any = next(m for m in method.encoder.modules() if hasattr(m, "residual_ends")).eval()
    x = torch.randn(2, 5, 16)
    ends = [block.get_submodule(end) for end in block.residual_ends]
    inputs = [torch.randn(3, end.in_features) for end in ends]
    before = [end(value) for end, value in zip(ends, inputs, strict=True)]
    whole = block(x)
    apply_mup(method, base_width=16, base_depth=2)
    for end, value, once in zip(ends, inputs, before, strict=True):
        torch.testing.assert_close(end(value), once / 2)
    assert not torch.equal(block(x), whole)
    same: Any = build({**encoder(16), "depth": 4}, METHODS["byol"](16), input)
    plain: Any = build({**encoder(16), "depth": 4}, METHODS["byol"](16), input)
    apply_mup(same, base_width=16, base_depth=4)
    sample = views(kind).x[0]
    same.load_state_dict(plain.state_dict())
    assert torch.equal(same.eval().encoder(sample), plain.eval().encoder(sample))
