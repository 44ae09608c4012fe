"""Pages of methods: the few lines of each loss are the package's loss, and diagrams are current."""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint import quant
from mezzotint.augment.image.multi_augment import LocalLoss, MultiAugment
from mezzotint.augment.image.policies import Policy
from mezzotint.encoders.resnet import resnet8
from mezzotint.methods.byol import BYOL, squared_distance
from mezzotint.methods.code_targets import Targets, code_loss
from mezzotint.methods.dino import DINO
from mezzotint.methods.emix import mixture_loss
from mezzotint.methods.lejepa import prediction, sigreg
from mezzotint.methods.mae import standardize
from mezzotint.methods.method import cosine_momentum
from mezzotint.methods.moco import MoCo, queue_contrast
from mezzotint.methods.mocov3 import contrast
from mezzotint.methods.siamese import over_pairs
from mezzotint.methods.simclr import nt_xent
from mezzotint.methods.simsiam import negative_cosine
from mezzotint.optim import mup
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views
from tests import ROOT
from tests.methods.pair_masks import build, make_views

sys.path.insert(0, str(ROOT / "scripts"))
import draw_methods  # noqa: E402

DOCS = ROOT / "docs"
METHODS = sorted((DOCS / "methods").glob("*.md"))
SECTIONS = ("Loss", "Keys", "When to use it", "What differs from the paper")


def code(page: str, name: str = "loss") -> Callable[..., Any]:
    """The function of the first block of a page that defines it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    scope: dict[str, Any] = {}
    exec(compile(next(b for b in blocks if f"def {name}(" in b), page, "exec"), scope)
    found: Callable[..., Any] = scope[name]
    return found


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


A, B = rows(6, 5, seed=1), rows(6, 5, seed=2)
C, D = rows(6, 5, seed=3), rows(6, 5, seed=4)


def dino() -> tuple[Tensor, Tensor]:
    input = Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    encoder = resnet8(input, stem="small", width=2)
    method = DINO(encoder, prototypes=5, hidden_dim=4, dim=3).eval()
    method.center.copy_(rows(5, seed=5) / 10)
    x = (rows(6, 3, 8, 8), rows(6, 3, 8, 8, seed=9))
    draws = Draws(torch.arange(6), key_of("page"))
    views = Views(x, ("global", "global"), draws, epoch=torch.zeros(()))
    zs, ps = method.online(views)
    ours, _ = method.compare(ps, method.targets(views, zs), views)
    logits = [method.teacher_projector(method.teacher_encoder(one))[1] for one in x]
    loss = code("methods/dino.md")
    shown = [loss(ps[0], logits[1], method.center), loss(ps[1], logits[0], method.center)]
    return torch.stack(shown).mean(), ours


def ssql() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    network = resnet8(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), stem="small", width=2).eval()
    quant.quantize_(network, "ssql")
    quant.calibrate(network, [rows(4, 3, 8, 8)])
    x, targets = rows(4, 3, 8, 8), rows(4, network.dim, seed=1)
    own = code("ssql.md")(network, negative_cosine, x, targets, 2, 4)
    with quant.bits(network, weight=2, activation=4):
        low = negative_cosine(network(x), targets)
    assert abs(low - negative_cosine(network(x), targets)) > 1e-3
    return own, (negative_cosine(network(x), targets) + low) / 2


def lejepa() -> tuple[Tensor, Tensor]:
    z, directions = rows(2, 6, 5), torch.nn.functional.normalize(rows(7, 5, seed=1), dim=1)
    ours = 0.95 * prediction(z, [0, 1]) + 0.05 * sigreg(z, directions)
    return code("methods/lejepa.md")(z, directions), ours


def bridle() -> tuple[Tensor, Tensor]:
    logits, codes = rows(2, 3, 4, 5), torch.randint(5, (2, 6, 4))
    hidden = torch.tensor([[0, 2, 5], [1, 2, 3]])
    chosen = codes.gather(1, hidden.unsqueeze(2).expand(2, 3, 4))
    ours, _ = code_loss(logits.flatten(2), Targets(codes.unsqueeze(-1)), hidden, 5)
    return code("methods/bridle.md")(logits, chosen), ours


def emix() -> tuple[Tensor, Tensor]:
    partner, weight = torch.tensor([1, 0, 3, 2, 5, 4]), torch.rand(6)
    ours, _ = mixture_loss(A, B, partner, weight, 0.2)
    return code("dabs.md")(A, B, partner, weight), ours


def info_nce(queue: Tensor, temperature: float, q: Tensor, k: Tensor) -> Tensor:
    return queue_contrast(q, k, queue, temperature)[0]


def factors() -> tuple[Tensor, Tensor]:
    """MoCo and BYOL are one sum with two distances, for a symmetric loss or not."""
    loss, views = code("siamese-factors.md"), make_views(2, 6)
    shown, ours = [], []
    for cls, keywords in (
        (MoCo, {"head": "byol", "symmetric": True, "queue_size": 20}),
        (MoCo, {"queue_size": 20}),
        (BYOL, {"reduction": "sum"}),
    ):
        method = build(cls, **keywords)
        zs, ps = method.online(views)
        ts = method.targets(views, zs)
        distance: Callable[..., Any] = squared_distance
        if isinstance(method, MoCo):
            distance = functools.partial(info_nce, method.queue.clone(), method.temperature)
        shown.append(loss(ps, ts, distance, len(ps) == 2))
        ours.append(method.compare(ps, ts, views)[0])
    momentum = code("siamese-factors.md", "momentum")
    shown += [torch.tensor(momentum(0.99, s)) for s in (0.0, 0.3, 1.0)]
    ours += [torch.tensor(cosine_momentum(0.99, s)) for s in (0.0, 0.3, 1.0)]
    return (torch.stack(shown) * torch.arange(1, 7)).sum(), (
        torch.stack(ours) * torch.arange(1, 7)
    ).sum()


def local_pairs() -> tuple[Tensor, Tensor]:
    """Two global and two local views, in both ways of comparing."""
    rows_of = [rows(6, 5, seed=seed) for seed in range(8)]
    ps, ts = rows_of[:4], dict(enumerate(rows_of[4:]))
    shown, ours = [], []
    kinds = (LocalLoss(weight=0.7), (0, 1)), (LocalLoss(compare="local_local", weight=0.7), (2, 3))
    for local_loss, targets in kinds:
        made = MultiAugment(policies=[Policy(transforms=[])], num_local=2, local_loss=local_loss)
        chosen, weights = made.pairing(0.0)
        assert weights is not None
        views = replace(make_views(4, 6), pairs=chosen, weights=torch.tensor(weights))
        ours.append(over_pairs(squared_distance, ps, ts, views, "sum"))
        loss = code("multi-augmentation.md")
        shown.append(loss(ps, ts, squared_distance, (0, 1), 0.7, targets))
    return shown[0] + 2 * shown[1], ours[0] + 2 * ours[1]


QUEUE = torch.nn.functional.normalize(rows(9, 5, seed=7), dim=1)
LOSSES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "simclr": lambda: (code("methods/simclr.md")(A, B), nt_xent(torch.stack([A, B]), 0.2)[0]),
    "moco": lambda: (code("methods/moco.md")(A, B, QUEUE), queue_contrast(A, B, QUEUE, 0.2)[0]),
    "simsiam": lambda: (
        code("methods/simsiam.md")(A, B, C, D),
        (negative_cosine(A, D) + negative_cosine(B, C)) / 2,
    ),
    "byol": lambda: (
        code("methods/byol.md")(A, B, C, D),
        squared_distance(A, D) + squared_distance(B, C),
    ),
    "mocov3": lambda: (code("methods/mocov3.md")(A, B), contrast(A, B, 1.0)[0]),
    "mae": lambda: (
        code("methods/mae.md")(rows(2, 3, 4), rows(2, 3, 4, seed=1)),
        (rows(2, 3, 4) - standardize(rows(2, 3, 4, seed=1))).square().mean(),
    ),
    "distill": lambda: (code("distillation.md")(A, B), negative_cosine(A, B)),
    "dino": dino, "ssql": ssql, "lejepa": lejepa, "bridle": bridle, "emix": emix,
    "siamese factors": factors, "massrl": local_pairs,
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_the_lines_of_the_page_are_the_loss(name: str) -> None:
    shown, ours = LOSSES[name]()
    torch.testing.assert_close(shown, ours, rtol=1e-5, atol=1e-6)
    assert ours.ndim == 0 and ours.abs() > 1e-3


def test_the_rates_and_the_readout_of_the_page_are_those_of_mup() -> None:
    def net(width: int) -> torch.nn.Sequential:
        layers = torch.nn.Linear(3, width), torch.nn.Linear(width, width), mup.MuReadout(width, 2)
        return torch.nn.Sequential(*layers)

    model = mup.set_base_shapes(net(8), net(2), delta=net(4))
    optimizer = mup.MuAdamW(model, lr=0.01, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    roles = {"0.weight": "input", "1.weight": "hidden", "1.bias": "vector", "2.weight": "output"}
    for name, role in roles.items():
        shown = code("mup.md", "scaled")(role, 0.01, 0.1, 4.0)
        assert found[name] == pytest.approx(shown), role
    x, last = rows(5, 8), model.get_submodule("2")
    shown = code("mup.md", "readout")(x, last.weight, last.bias, 4.0)
    torch.testing.assert_close(last(x), shown)


def test_the_map_of_the_page_keeps_order_and_has_so_few_values() -> None:
    quantize = code("randomized-quantization.md", "quantize")
    x = rows(3, 400)
    torch.manual_seed(0)
    view = quantize(x, 6)
    assert view.shape == x.shape and 2 <= len(view.unique()) <= 6
    order = x.flatten().argsort()
    assert bool((view.flatten()[order].diff() >= 0).all())
    assert x.min() <= view.min() and view.max() <= x.max()
    assert not torch.equal(view, quantize(x, 6))


@pytest.mark.parametrize("path", METHODS, ids=lambda p: str(p.stem))
def test_a_page_has_idea_picture_loss_keys_and_when(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^## (.*)$", text, re.M)
    assert tuple(found[:4]) == SECTIONS
    assert "$$" in text and "```python" in text and "arxiv.org" in text
    assert f"](../images/methods/{path.stem}.svg)" in text
    kind = path.stem
    assert f"method.md#method-{kind}" in text and kind in index().members("Method")


def test_every_method_has_a_page() -> None:
    pages = {path.stem for path in METHODS}
    elsewhere = {
        "ssql": "ssql.md", "distill": "distillation.md", "supervised": "finetuning.md",
        "bridle_joint": "masked-prediction.md", "bridle_tokenizer": "masked-prediction.md",
        "emix": "dabs.md", "shed": "dabs.md", "embedding_quantization": "dabs.md",
    }  # fmt: skip
    assert pages | elsewhere.keys() == index().members("Method").keys()
    for kind, page in elsewhere.items():
        assert kind in (DOCS / page).read_text(encoding="utf-8"), kind


def test_diagrams_are_those_of_the_script() -> None:
    for name, diagram in draw_methods.diagrams().items():
        path = draw_methods.OUT / f"{name}.svg"
        assert path.read_text(encoding="utf-8") == diagram.svg(name), "run scripts/draw_methods.py"


def test_a_loss_alone() -> None:
    text = (DOCS / "losses.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    scope: dict[str, Any] = {}
    exec(compile(block, "losses.md", "exec"), scope)
    assert scope["a"].grad.abs().sum() > 0 and 0.0 <= float(scope["accuracy"]) <= 1.0
    listed = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert len(listed) == 5 and all(callable(scope[name]) for name in listed)
