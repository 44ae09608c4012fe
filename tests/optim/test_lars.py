"""LARS by hand, in both forms, and against momentum SGD; LARC against its definition."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.optim.lars import LARCOptimizer, LARSOptimizer


def parameter(*values: float) -> nn.Parameter:
    """A tensor of two dimensions, `[1, n]`."""
    return nn.Parameter(torch.tensor([values], dtype=torch.float64))


def step(optimizer: LARSOptimizer, p: nn.Parameter, *gradient: float) -> Tensor:
    p.grad = torch.tensor([gradient], dtype=torch.float64)
    optimizer.step()
    return p.detach().squeeze(0).clone()


def test_mocov3_form_by_hand() -> None:
    """|w| = 5, g = (0, 1), λ = 0.5: u = g + λ w = (1.5, 3), |u| = √11.25; ratio = 0.1 · 5 / |u|."""
    p = parameter(3.0, 4.0)
    optimizer = LARSOptimizer([p], lr=2.0, momentum=0.9, weight_decay=0.5, trust=0.1)
    ratio = 0.1 * 5 / math.sqrt(11.25)
    buffer = torch.tensor([1.5, 3.0], dtype=torch.float64) * ratio
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) - 2.0 * buffer
    torch.testing.assert_close(step(optimizer, p, 0.0, 1.0), expected)
    # Second step at half the rate: the buffer knows nothing of rates.
    optimizer.param_groups[0]["lr"] = 1.0
    update = torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.5 * expected
    buffer = 0.9 * buffer + update * (0.1 * expected.norm() / update.norm())
    torch.testing.assert_close(step(optimizer, p, 1.0, 0.0), expected - buffer)


def test_papers_form_by_hand() -> None:
    """The same with η |w| / (|g| + λ |w|) = 0.5 / 3.5 and the learning rate in the buffer."""
    p = parameter(3.0, 4.0)
    optimizer = LARSOptimizer(
        [p], lr=2.0, momentum=0.9, weight_decay=0.5, trust=0.1, lr_in_buffer=True
    )
    buffer = 2.0 * (0.5 / 3.5) * torch.tensor([1.5, 3.0], dtype=torch.float64)
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) - buffer
    torch.testing.assert_close(step(optimizer, p, 0.0, 1.0), expected)
    # Second step at half the rate: what is in the buffer keeps the rate it came with.
    optimizer.param_groups[0]["lr"] = 1.0
    local = 0.1 * expected.norm() / (1.0 + 0.5 * expected.norm())
    buffer = 0.9 * buffer + local * (torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.5 * expected)
    torch.testing.assert_close(step(optimizer, p, 1.0, 0.0), expected - buffer)


@pytest.mark.parametrize("lr_in_buffer", [False, True])
def test_ratio_is_one_where_a_norm_is_zero(lr_in_buffer: bool) -> None:
    zero_weight, zero_gradient = parameter(0.0, 0.0), parameter(3.0, 4.0)
    optimizer = LARSOptimizer([zero_weight, zero_gradient], lr=0.5, lr_in_buffer=lr_in_buffer)
    zero_gradient.grad = torch.zeros_like(zero_gradient)
    torch.testing.assert_close(
        step(optimizer, zero_weight, 1.0, 2.0), torch.tensor([-0.5, -1.0], dtype=torch.float64)
    )
    assert torch.equal(zero_gradient.detach(), parameter(3.0, 4.0).detach())


def test_weight_decay_of_a_zero_gradient() -> None:
    """MoCo v3 looks at |g + λ w|, which is not zero here, the paper's form at |g|, which is."""
    for lr_in_buffer, ratio in ((False, 0.1 * 5 / (0.5 * 5)), (True, 1.0)):
        p = parameter(3.0, 4.0)
        optimizer = LARSOptimizer(
            [p], lr=1.0, weight_decay=0.5, trust=0.1, lr_in_buffer=lr_in_buffer
        )
        expected = torch.tensor([3.0, 4.0], dtype=torch.float64) * (1 - 0.5 * ratio)
        torch.testing.assert_close(step(optimizer, p, 0.0, 0.0), expected)


@pytest.mark.parametrize("lr_in_buffer", [False, True])
def test_excluded_groups_are_momentum_sgd(lr_in_buffer: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    group = {"params": list(ours.parameters()), "excluded": True}
    lars = LARSOptimizer([group], lr=0.1, momentum=0.9, lr_in_buffer=lr_in_buffer)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        x = torch.randn(5, 4)
        for net, optimizer in ((ours, lars), (theirs, sgd)):
            optimizer.zero_grad()
            torch.autograd.backward(net(x).square().mean())
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("lr_in_buffer", [False, True])
def test_state_round_trip_and_missing_gradients(lr_in_buffer: bool) -> None:
    def fresh() -> tuple[nn.ParameterDict, LARSOptimizer]:
        generator = torch.Generator().manual_seed(0)
        net = nn.ParameterDict(
            {name: torch.randn(3, 4, generator=generator) for name in ("used", "unused")}
        )
        return net, LARSOptimizer(
            net.parameters(), lr=0.1, weight_decay=1e-3, lr_in_buffer=lr_in_buffer
        )

    def train(net: nn.ParameterDict, optimizer: LARSOptimizer, seed: int) -> None:
        optimizer.zero_grad()
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        torch.autograd.backward((x @ net["used"].T).square().mean())
        optimizer.step()

    (net, optimizer), (other, resumed) = fresh(), fresh()
    untouched = net["unused"].detach().clone()
    train(net, optimizer, 1)
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the buffers
    train(net, optimizer, 2)
    train(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert torch.equal(net["unused"], untouched)


def test_closure_gives_the_loss() -> None:
    p = parameter(3.0, 4.0)
    optimizer = LARSOptimizer([p], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = p.square().sum()
        torch.autograd.backward(loss)
        return loss.item()

    assert optimizer.step(closure) == 25.0
    assert p.norm().item() < 5.0


def naive_larc(
    tensors: list[Tensor], gradients: list[list[Tensor]], lrs: list[float], clip: bool, decay: float
) -> list[Tensor]:
    """NVIDIA apex's rule, a step and a tensor at a time, over momentum SGD without weight decay."""
    buffers = [torch.zeros_like(t) for t in tensors]
    for lr, own in zip(lrs, gradients, strict=True):
        for p, g, buffer in zip(tensors, own, buffers, strict=True):
            weight, size = math.sqrt(float((p * p).sum())), math.sqrt(float((g * g).sum()))
            if weight != 0 and size != 0:
                rate = 0.02 * weight / (size + weight * decay + 1e-8)
                if clip:
                    rate = min(rate / lr, 1)
                g = (g + decay * p) * rate
            buffer.copy_(0.9 * buffer + g)
            p -= lr * buffer
    return tensors


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_larc_is_apexs(clip: bool, decay: float) -> None:
    """Weights of very different norms, so that one is clipped and another not; one starts at 0."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = [draw(3, 4), 100 * draw(2, 2), torch.zeros(4, dtype=torch.float64)]
    lrs = [0.5, 0.1, 0.02, 0.1]
    gradients = [[draw(3, 4), draw(2, 2), draw(4)] for _ in lrs]
    gradients[1][0].zero_()
    params = [nn.Parameter(t.clone()) for t in start]
    optimizer = LARCOptimizer(params, lr=1.0, weight_decay=decay, clip=clip)
    for lr, own in zip(lrs, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        for p, g in zip(params, own, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for p, expected in zip(params, naive_larc(start, gradients, lrs, clip, decay), strict=True):
        torch.testing.assert_close(p.detach(), expected)


def test_larc_of_an_excluded_group_and_far_below_its_clip_is_sgd() -> None:
    for group in ({"excluded": True}, {"trust": 1e6}):
        ours, theirs = parameter(3.0, 4.0), parameter(3.0, 4.0)
        larc = LARCOptimizer([{"params": [ours], **group}], lr=0.1, weight_decay=0.2)
        sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.2)
        for step_gradient in ((1.0, -2.0), (0.5, 0.1)):
            for p, optimizer in ((ours, larc), (theirs, sgd)):
                p.grad = torch.tensor([step_gradient], dtype=torch.float64)
                optimizer.step()
        torch.testing.assert_close(ours, theirs)


def test_larc_gives_the_loss_of_a_closure() -> None:
    p = parameter(3.0, 4.0)
    optimizer = LARCOptimizer([p], lr=0.1)

    def closure() -> float:
        p.grad = 2 * p.detach()
        return float(p.detach().square().sum())

    assert optimizer.step(closure) == 25.0 and float(p.detach().norm()) < 5.0
