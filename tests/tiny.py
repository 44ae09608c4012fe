"""A recipe that trains in seconds, on the embedded digits."""

from typing import Any

from mezzotint.recipe.recipe import resolve_recipe

METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 16, "dim": 8},
    "simsiam": {"hidden_dim": 8, "dim": 16},
    "byol": {"hidden_dim": 16, "dim": 8},
    "dino": {"hidden_dim": 16, "dim": 8, "prototypes": 32},
    "mocov3": {"hidden_dim": 16, "dim": 8},
    "lejepa": {"hidden_dim": 16, "dim": 8, "slices": 16},
    "moco": {"hidden_dim": 16, "dim": 8, "queue_size": 600, "symmetric": True},
    "ssql": {"base": {"kind": "byol", "hidden_dim": 16, "dim": 8}},
}


def config(method: str = "simclr", **run: Any) -> dict[str, Any]:
    return resolve_recipe(
        {
            "data": {"kind": "embedded_images", "name": "digits"},
            "views": {
                "kind": "two_views",
                "policy": {"kind": "simclr", "blur_p": 0.5},
                "randomized_quantization": {"bins": 4, "p": 0.5},
            },
            "encoder": {"kind": "resnet18", "stem": "small", "width": 2},
            "method": {"kind": method, **METHODS[method]},
            "optimizer": {"kind": "adamw", "lr": 1e-3, "final_weight_decay": 0.1},
            "schedule": {"kind": "cosine", "warmup_epochs": 0.5},
            "run": {
                "epochs": 1,
                "batch_size": 256,
                "log": {"every_steps": 1, "knn_epochs": 0},
                **run,
            },
        }
    )


def is_masked(name: str) -> bool:
    """Whether a recipe is masked prediction, whose phases `recipes/test_masked.py` runs."""
    return any(part in name for part in ("bridle", "beats", "mae"))
