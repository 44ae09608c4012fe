"""The factors of Revisiting AIRL one by one, and the defects of its code: none of them is here."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet50
from mezzotint.methods.byol import BYOL, squared_distance
from mezzotint.methods.moco import MoCo
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input, Views
from tests.ranks import spawn

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


def test_mean_is_half_the_sum_of_both_directions() -> None:
    total, mean = (moco(symmetric=True, reduction=name)(views()).loss for name in ("sum", "mean"))
    torch.testing.assert_close(total, 2 * mean)


def test_asymmetric_byol_predicts_the_second_view_from_the_first() -> None:
    torch.manual_seed(0)
    method = BYOL(Normed(), hidden_dim=16, dim=8, symmetric=False).train()
    torch.manual_seed(0)
    both = BYOL(Normed(), hidden_dim=16, dim=8).train()
    v = views()
    zs, ps = both.online(v)
    expected = squared_distance(ps[0], both.targets(v, zs)[1])
    found = method(v).loss
    torch.testing.assert_close(found, expected)
    found.backward()
    assert method.encoder.body[0].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]


def test_projector_head_is_the_first_half_on_both_branches() -> None:
    with torch.device("meta"):
        method = MoCo(
            resnet50(Input((3, 224, 224), (0.5,) * 3, (0.5,) * 3)),
            head="projector", hidden_dim=4096, dim=256, queue_size=8,
        )  # fmt: skip
    linears = [m for m in method.projector.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features, m.bias is not None) for m in linears] == [
        (2048, 4096, True), (4096, 256, False),
    ]  # fmt: skip
    assert isinstance(method.predictor, nn.Identity)
    assert sum(p.numel() for p in method.key_projector.parameters()) == sum(
        p.numel() for p in method.projector.parameters()
    )


def test_symmetric_head_averages_all_four_linears_and_byol_leaves_the_predictor_out() -> None:
    symmetric, byol = moco(head="symmetric"), moco(head="byol")
    assert sum(isinstance(m, nn.Linear) for m in symmetric.key_projector.modules()) == 4
    assert sum(isinstance(m, nn.Linear) for m in byol.key_projector.modules()) == 2
    for method in (symmetric, byol):
        for p in method.projector.parameters():
            nn.init.constant_(p, 2.0)
        before = [p.clone() for p in method.key_projector.parameters()]
        method.after_step(0.5)
        for old, new in zip(before, method.key_projector.parameters(), strict=True):
            torch.testing.assert_close(new, 0.999 * old + 0.001 * 2.0)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    method = moco(shuffle=True, symmetric=True, queue_size=13)
    v = views(batch=8)
    half = slice(rank * 4, rank * 4 + 4)
    keys = method.keys(v.x[1][half], 1)
    for step in range(4):
        v = views(step, batch=8)
        method(Views(tuple(x[half] for x in v.x), v.tags, Draws(v.draws.ids[half], v.draws.key)))
        method.after_step((step + 1) / 4)
    torch.save(
        {"keys": keys, "queue": method.queue, "pointer": method.pointer}, f"{folder}/{rank}.pt"
    )
    td.barrier()
    td.destroy_process_group()


def test_shuffled_keys_come_back_in_place_and_ranks_enqueue_the_same_view(tmp_path: Path) -> None:
    spawn(_worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    method, v = moco(shuffle=True, symmetric=True), views(batch=8)
    order = Draws(torch.zeros(1, dtype=torch.int64), key_of("moco.shuffle", 1)).permutation(
        "rows", 8
    )[0]
    assert order.tolist() != list(range(8))
    naive = torch.empty(8, 8)
    for rows in (order[:4], order[4:]):  # each rank normalizes what it was dealt
        naive[rows] = method.key_projector(method.key_encoder(v.x[1][rows])).detach()
    torch.testing.assert_close(torch.cat([first["keys"], second["keys"]]), naive)
    assert torch.equal(first["queue"], second["queue"]) and int(first["pointer"]) == 4 * 8 % 13


FAMILY = {
    "image/moco_v1_imagenet": ("moco", "multi_step"),
    "image/moco_v2_imagenet": ("moco", "cosine"),
    "image/moco_v2plus_imagenet": ("moco", "cosine"),
    "image/smoco_v2plus_imagenet": ("moco", "cosine"),
    "image/moco_v2plus_lars_imagenet": ("moco", "cosine"),
    "image/moco_v2plus_lars_imagenet_100ep": ("moco", "cosine"),
    "image/byol_imagenet": ("byol", "cosine"),
    "image/byol_lars_imagenet": ("byol", "cosine"),
    "image/byol_lars_imagenet_100ep": ("byol", "cosine"),
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("epochs", [37, 300])
def test_recipes_take_any_number_of_epochs_and_build(name: str, epochs: int) -> None:
    """The authors' LARS recipes fail at model build, or accept only 100, 200 and 300 epochs."""
    small = [
        "data.kind=embedded_images",
        f"run.epochs={epochs}",
        "encoder.width=4",
        "method.hidden_dim=16",
        "method.dim=8",
    ]
    config = read_recipe(name, [*small, *(["method.queue_size=64"] if "moco" in name else [])])
    assert (config["method"]["kind"], config["schedule"]["kind"]) == FAMILY[name]
    recipe = Recipe.build(config)
    built = recipe.optimizer.build(recipe.method, 512)
    assert built.param_groups[0]["base_lr"] == pytest.approx(2 * config["optimizer"]["lr"])
    first = recipe.schedule(0, 1000, 10) * built.param_groups[0]["base_lr"]
    expected = {"multi_step": 2 * 0.03, "cosine": 2e-6}
    assert first == pytest.approx(expected[config["schedule"]["kind"]], rel=1e-3)


def test_the_rates_of_the_authors() -> None:
    assert read_recipe("image/byol_lars_imagenet_100ep")["optimizer"]["lr"] == 0.45
    assert read_recipe("image/byol_lars_imagenet")["optimizer"]["lr"] == 0.3
    byol, plus, symmetric = (
        read_recipe(f"image/{name}_imagenet") for name in ("byol", "moco_v2plus", "smoco_v2plus")
    )
    assert plus["optimizer"] == symmetric["optimizer"] == byol["optimizer"]
    assert {k for k in plus["method"] if plus["method"][k] != symmetric["method"][k]} == {"head"}
