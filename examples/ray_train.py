"""Pretrain on the workers of a Ray cluster.

    python examples/ray_train.py image/folder_simclr /shared/runs/photos data.root=/shared/photos

Ray Train starts the workers and joins them in a process group; Mezzotint trains in it as under
torchrun. The paths of the data and of the run must be absolute, on a disk that all workers share.
The same command goes on after an interruption. `WORKERS=8 GPU=1` sets the workers and their GPUs.
"""

import os
import sys
from pathlib import Path
from typing import Any


def train(config: dict[str, Any]) -> None:
    """Train on one worker."""
    import mezzotint

    out = Path(config["out"])
    recipe = mezzotint.Recipe.load(config["recipe"], config["overrides"])
    mezzotint.pretrain(recipe, out, resume=(out / "checkpoints").is_dir(), progress="quiet")


def main() -> None:
    """Start the workers, and wait for them."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    recipe, out, *overrides = sys.argv[1:]
    out = str(Path(out).resolve())  # the workers have another working directory
    gpu = os.environ.get("GPU", "0") == "1"
    TorchTrainer(
        train,
        train_loop_config={"recipe": recipe, "out": out, "overrides": overrides},
        scaling_config=ScalingConfig(num_workers=int(os.environ.get("WORKERS", "2")), use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(storage_path=str(Path(out).parent / "ray")),
    ).fit()


if __name__ == "__main__":
    main()
