"""MoCo v3's loss and heads."""

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.mocov3 import MoCoV3, contrast
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views


class Patches(Encoder):
    """A patch embedding and a linear, as far as a ViT matters here."""

    def __init__(self) -> None:
        super().__init__(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), dim=6)
        self.patch_embed = nn.Conv2d(3, 5, 4, 4)
        self.linear = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.patch_embed(x).mean(dim=(2, 3)))
        return out


def naive(q: Tensor, k: Tensor, temperature: float) -> float:
    losses = []
    for i in range(len(q)):
        cosines = [
            float(torch.cosine_similarity(q[i].double(), k[j].double(), dim=0))
            for j in range(len(k))
        ]
        scores = [math.exp(c / temperature) for c in cosines]
        losses.append(-math.log(scores[i] / sum(scores)))
    return 2 * temperature * sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_equals_the_definition(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    loss, _ = contrast(q, k, temperature)
    assert float(loss) == pytest.approx(naive(q, k, temperature), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_closed_forms(temperature: float) -> None:
    same, none = contrast(torch.ones(8, 4), torch.ones(8, 4), temperature)
    assert float(same) == pytest.approx(2 * temperature * math.log(8), rel=1e-5)
    apart, accuracy = contrast(torch.eye(5), torch.eye(5), temperature)
    assert float(apart) == pytest.approx(
        2 * temperature * math.log1p(4 * math.exp(-1 / temperature)), rel=1e-4
    )
    assert float(accuracy) == 1.0 and float(none) <= 1.0


def test_keys_get_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(4, 3, generator=generator).requires_grad_() for _ in range(2))
    loss, _ = contrast(q, k, 0.2)
    to_query, to_key = torch.autograd.grad(loss, (q, k), allow_unused=True)
    assert to_query is not None and to_key is None


def test_loss_is_the_sum_of_both_directions() -> None:
    torch.manual_seed(0)
    method = MoCoV3(Patches(), hidden_dim=8, dim=4, temperature=0.2)
    nn.init.normal_(method.key_encoder.get_parameter("linear.weight"))
    x1, x2 = torch.randn(6, 3, 8, 8), torch.randn(6, 3, 8, 8)
    q1, q2 = (method.predictor(method.projector(method.encoder(x))) for x in (x1, x2))
    k1, k2 = (method.key_projector(method.key_encoder(x)) for x in (x1, x2))
    expected = contrast(q1, k2, 0.2)[0] + contrast(q2, k1, 0.2)[0]
    views = Views((x1, x2), ("global", "global"), Draws(torch.arange(6), 0))
    torch.testing.assert_close(method(views).loss, expected)


def names(head: nn.Sequential) -> list[str]:
    return [type(m).__name__ for m in head]


def test_heads_are_the_papers() -> None:
    """Widths and norms of the authors' ResNet and ViT builders; no linear has a bias."""
    block = ["Linear", "BatchNorm1d", "ReLU"]
    resnet, vit = MoCoV3(Patches()), MoCoV3(Patches(), head="vit")
    assert names(resnet.projector) == [*block, "Linear", "BatchNorm1d"]
    assert names(resnet.predictor) == [*block, "Linear"]
    assert names(vit.projector) == [*block, *block, "Linear", "BatchNorm1d"]
    assert names(vit.predictor) == [*block, "Linear", "BatchNorm1d"]
    for method in (resnet, vit):
        heads = [*method.projector, *method.predictor]
        assert all(m.bias is None for m in heads if isinstance(m, nn.Linear))
        last = method.projector[-1]
        assert isinstance(last, nn.BatchNorm1d) and not last.affine
    linears = [m for m in vit.projector if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (6, 4096),
        (4096, 4096),
        (4096, 256),
    ]


@pytest.mark.parametrize("head", ["resnet", "vit"])
def test_training_step_moves_all_but_a_frozen_patch_embedding(head: str) -> None:
    torch.manual_seed(0)
    method = MoCoV3(Patches(), head=head, hidden_dim=8, dim=4, stop_grad_patch_embed=True)  # type: ignore[arg-type]
    x = tuple(torch.randn(6, 3, 8, 8) for _ in range(2))
    method(Views(x, ("global", "global"), Draws(torch.arange(6), 0))).loss.backward()
    assert method.encoder.get_parameter("patch_embed.weight").grad is None
    for name, parameter in method.named_parameters():
        trained = not name.startswith(("key_", "encoder.patch_embed"))
        assert (parameter.grad is not None) == trained, name


def test_our_own_vit_has_a_patch_embedding_to_freeze() -> None:
    vit = ViT(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), width=12, depth=1, heads=3, patch=4)
    method = MoCoV3(vit, head="vit", hidden_dim=8, dim=4, stop_grad_patch_embed=True)
    frozen = {name for name, p in method.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"patches.project.weight", "patches.project.bias"}


def test_patch_embedding_is_needed_to_freeze_it() -> None:
    class Plain(Encoder):
        def __init__(self) -> None:
            super().__init__(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), dim=6)
            self.linear = nn.Linear(3, 6)

    with pytest.raises(ValueError, match="which Plain does not have. Set it to false"):
        MoCoV3(Plain(), stop_grad_patch_embed=True)


def test_key_network_follows_with_rising_momentum() -> None:
    method = MoCoV3(Patches(), hidden_dim=8, dim=4, momentum=0.9)
    nn.init.constant_(method.encoder.get_parameter("linear.weight"), 1.0)
    key = method.key_encoder.get_parameter("linear.weight")
    nn.init.constant_(key, 0.0)
    method.after_step(0.5)
    torch.testing.assert_close(key, torch.full_like(key, 0.05))  # momentum 0.95 half-way
    method.after_step(1.0)
    torch.testing.assert_close(key, torch.full_like(key, 0.05))  # and 1 at the end


@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"momentum": 1.5}])
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        MoCoV3(Patches(), **bad)  # type: ignore[arg-type]
