"""What a training step calls: the method itself, or the method on several processes."""

import torch
from torch import nn

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import Method
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.gradient_cache import GradientCache
from mezzotint.train.settings import Run
from mezzotint.train.sharding import require_shardable, shard


def divide(method: Method, recipe: Recipe) -> Encoder | None:
    """Divide a method over all processes, if the recipe says so and there are several.

    Returns:
        A copy of its encoder that is not divided; `None` if nothing was divided.

    Raises:
        RecipeError: for a method, an encoder or an optimizer that cannot be divided.
    """
    if recipe.run.compute.sharding == "none":
        return None
    require_shardable(method, recipe.optimizer.config["kind"])
    return shard(method) if dist.world_size() > 1 else None


def entrance(method: Method, run: Run, device: torch.device) -> nn.Module:
    """Wrap a method for the step: gradients averaged over processes, cached, compiled.

    Args:
        method: on its device, in training mode.
        run: settings of the run.
        device: of the method.
    """
    entered: nn.Module = method
    if run.compute.gradient_cache:
        entered = GradientCache(method, run.micro_batches)
    elif dist.world_size() > 1 and run.compute.sharding == "none":
        ids = [device.index] if device.type == "cuda" else None
        entered = nn.parallel.DistributedDataParallel(method, device_ids=ids)
        # Buffers are equal on all processes, but for BatchNorms that are not synchronized; to send
        # them with every step costs much (MoCo's queue). The keyword has two names in torch.
        entered.broadcast_buffers = run.compute.sync_batch_norm is not True
    return torch.compile(entered) if run.compute.compile else entered  # type: ignore[return-value]
