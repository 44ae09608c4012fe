"""A plan of three phases of BRIDLE on digits, which takes seconds."""

from typing import Any

CODEBOOK = {"kind": "rq", "dim": 8, "num_codes": 24, "num_levels": 2}


def raw(*, precision: str = "fp32", **last: Any) -> dict[str, Any]:
    return {
        "data": {"kind": "embedded_images", "name": "digits"},
        "views": {"kind": "transformed", "transforms": [], "count": 1},
        "encoder": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 2},
        "method": {
            "kind": "bridle", "codebook": CODEBOOK, "cache": True,
            "decoder": {"width": 16, "depth": 1, "heads": 2},
        },
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "run": {
            "epochs": 1, "batch_size": 256, "log": {"every_steps": 1, "knn_epochs": 0},
            "compute": {"precision": precision},
        },
        "phases": [
            {"name": "encoder"},
            {
                "name": "tokenizer",
                "load": {"encoder": "encoder"},
                "method": {"kind": "bridle_tokenizer", "codebook": CODEBOOK, "estimator_depth": 1},
            },
            {
                "name": "encoder",
                "load": {
                    "encoder": "encoder", "decoder": "decoder", "tokenizer": "tokenizer",
                    "codebook": "codebook",
                },
                "method": {"tokenizer": "learned_tokenizer", "codebook": CODEBOOK},
                **last,
            },
        ],
    }  # fmt: skip
