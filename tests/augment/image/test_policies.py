import pytest
import torch

from mezzotint.augment.image.blur import GaussianBlur
from mezzotint.augment.image.color import ColorJitter, Grayscale
from mezzotint.augment.image.policies import Policy, byol, identity, mocov1, mocov2, simclr
from mezzotint.augment.image.tone import Solarize
from mezzotint.seeding import Draws


@pytest.mark.parametrize(
    ("policy", "jitter", "jitter_p", "gray_p", "blur_p", "solarize_p"),
    [
        # SimCLR, appendix A: strength 1 on ImageNet; 0.5 and no blur on CIFAR-10.
        (simclr(), (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5, 0.0),
        (simclr(strength=0.5, blur_p=0.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0),
        # MoCo v2, section 3; SSQL's CIFAR configurations leave the blur out.
        (mocov2(), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0),
        (mocov2(blur_p=0.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.0, 0.0),
        # BYOL, table 6: the two views.
        (byol(), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0, 0.0),
        (byol(blur_p=0.1, solarize_p=0.2), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 0.1, 0.2),
    ],
)
def test_published_values(
    policy: Policy,
    jitter: tuple[float, float, float, float],
    jitter_p: float,
    gray_p: float,
    blur_p: float,
    solarize_p: float,
) -> None:
    first, second, third, fourth = policy.transforms
    assert isinstance(first, ColorJitter) and isinstance(second, Grayscale)
    assert isinstance(third, GaussianBlur) and isinstance(fourth, Solarize)
    assert tuple(first.strengths.values()) == pytest.approx(jitter)
    assert (first.p, second.p, third.p, fourth.p) == (jitter_p, gray_p, blur_p, solarize_p)
    assert third.sigma == (0.1, 2.0) and fourth.threshold == 0.5


def test_mocov1_is_gray_first_and_jitters_always() -> None:
    gray, jitter = mocov1().transforms
    assert isinstance(gray, Grayscale) and isinstance(jitter, ColorJitter)
    assert set(jitter.strengths.values()) == {0.4} and (gray.p, jitter.p) == (0.2, 1.0)


def test_identity_changes_nothing() -> None:
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(identity()(x, Draws(torch.arange(4), 0)), x)


def test_a_policy_remembers_how_it_was_written() -> None:
    assert simclr(strength=0.5, blur_p=0.0).config == {
        "kind": "simclr",
        "strength": 0.5,
        "blur_p": 0.0,
    }
    own = Policy(transforms=[Grayscale(p=0.3)])
    assert own.config == {"kind": "policy", "transforms": [{"kind": "grayscale", "p": 0.3}]}


def test_leaving_the_blur_out_does_not_move_the_other_draws() -> None:
    draws = Draws(torch.arange(16), 4)
    whole, without = (
        policy.draw((16, 3, 8, 8), draws) for policy in (simclr(), simclr(blur_p=0.0))
    )
    same = [name for name in whole if "blur" not in name]
    assert all(torch.equal(whole[name], without[name]) for name in same)


@pytest.mark.parametrize("policy", [simclr(), mocov1(), mocov2(), byol(), identity()])
def test_gray_images_pass_every_policy(policy: Policy) -> None:
    x = torch.rand(16, 1, 40, 36, generator=torch.Generator().manual_seed(0))
    y = policy(x, Draws(torch.arange(16), 4))
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
