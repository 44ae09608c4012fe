import pytest

from mezzotint.train.preview import preview
from mezzotint.train.recipe import Recipe, resolve_recipe


@pytest.mark.parametrize(
    ("method", "views", "said"),
    [
        (
            {"kind": "byol", "hidden_dim": 8, "dim": 8},
            {"num_global": 2},
            "4 a sample: 4 passes through the encoder with",
        ),
        ({"kind": "simsiam", "hidden_dim": 8, "dim": 8}, {"mode": "sampled"}, "2 a sample: 2 passes through the"),
    ],
)
def test_the_dry_run_says_views_and_passes(method: dict[str, object], views: dict[str, object], said: str) -> None:
    strategies = [{"kind": "simclr"}, {"kind": "rand_augment"}]
    config = {
        "data": {"kind": "samples", "name": "digits"},
        "views": {"kind": "multi_augment", "strategies": strategies, **views},
        "encoder": {"kind": "resnet18", "stem": "small", "width": 2},
        "method": method,
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "run": {"epochs": 1, "batch_size": 16},
    }
    text = preview(Recipe.build(resolve_recipe(config)))
    assert said in text
    assert f"and {4 if method['kind'] == 'byol' else 0} without" in text
