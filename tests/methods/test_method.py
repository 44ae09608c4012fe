"""Momentum copies, and BatchNorms synchronized by branch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.encoders.batch_norm import SynchronizedBatchNorm
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import synchronize_norms, views_of
from mezzotint.methods.moco import MoCo
from mezzotint.methods.simsiam import SimSiam
from mezzotint.methods.ssql import SSQL
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views

INPUT = Input((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Normed(Encoder):
    """One linear layer and a BatchNorm, whose statistics tell who was in the batch."""

    def __init__(self) -> None:
        super().__init__(INPUT, dim=12)
        self.body = nn.Sequential(nn.Linear(192, 12), nn.BatchNorm1d(12))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x.flatten(1)))


def moco(**keywords: Any) -> MoCo:
    torch.manual_seed(0)
    return MoCo(Normed(), **{"hidden_dim": 16, "dim": 8, "queue_size": 10} | keywords).train()


def views(step: int = 0, batch: int = 4) -> Views:
    generator = torch.Generator().manual_seed(step)
    x = tuple(torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(2))
    return Views(x, ("global", "global"), Draws(torch.arange(batch), key_of(0, step)))


def test_target_uses_its_own_batch_and_its_buffers_are_not_averaged() -> None:
    method = moco(head="mlp")
    norm, online = method.key_encoder.body[1], method.encoder.body[1]  # type: ignore[index]
    method(views())
    assert int(norm.num_batches_tracked) == 1  # type: ignore[union-attr]
    mean = norm.running_mean.clone()  # type: ignore[union-attr]
    online.running_mean.fill_(7.0)  # type: ignore[union-attr]
    method.after_step(0.5)
    assert torch.equal(norm.running_mean, mean)  # type: ignore[union-attr]


@pytest.mark.parametrize("of", [True, False, "online", "target"])
def test_norms_are_synchronized_by_branch(of: Any) -> None:
    base = moco(head="byol")
    for method in (moco(head="byol"), SSQL(base.encoder, base=base)):
        synchronize_norms(method, of)
        own = getattr(method, "base", method)
        norms = {n: m for n, m in own.named_modules() if isinstance(m, _BatchNorm)}
        assert any(n.startswith("predictor") for n in norms) and any(
            n.startswith("key_projector") for n in norms
        )
        for name, norm in norms.items():
            wanted = of is True or of == ("target" if name.startswith("key_") else "online")
            assert isinstance(norm, SynchronizedBatchNorm) == wanted, name
    with pytest.raises(
        ValueError,
        match="must be true or false for simsiam, which keeps no momentum copy, got target",
    ):
        synchronize_norms(SimSiam(Normed(), hidden_dim=4, dim=8), "target")


def test_a_method_takes_tensors_as_a_plain_loop_has_them() -> None:
    method = SimSiam(Normed(), hidden_dim=16, dim=8).train()
    whole = views()
    a, b = whole.x
    for given in ((a, b), [a, b]):
        torch.testing.assert_close(method(given).loss, method(whole).loss)
    step = moco()((a, b))
    step.loss.backward()
    assert torch.isfinite(step.loss) and step.logs
    with pytest.raises(ValueError, match="takes .*views, got 1"):
        method(a)
    with pytest.raises(ValueError, match=r"must have the same samples, got \[4, 3\] samples"):
        method((a, b[:3]))
    with pytest.raises(TypeError, match=r"takes views or tensors, got \['int'\]"):
        method([7])  # type: ignore[list-item]


def test_the_own_draws_of_a_method_follow_the_generator_of_torch() -> None:
    x = views().x
    torch.manual_seed(3)
    first, second = views_of(x), views_of(x)
    torch.manual_seed(3)
    again = views_of(x)
    assert first.draws.key == again.draws.key != second.draws.key
    assert first.tags == ("global", "global") and torch.equal(first.draws.ids, torch.arange(4))
