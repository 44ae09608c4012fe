"""What a training step calls on one process or several: the method, DDP, or FSDP2.

FSDP2 divides parameters, gradients and moments over processes (Zhao et al. 2023, 2304.11277).

Each block of a transformer is gathered when it is run, and its gradient is averaged and divided
again, by `torch.distributed.fsdp.fully_shard`; losses are those of `DistributedDataParallel`.
Checkpoints and encoders have whole tensors, so that a run goes on with any number of processes, or
without sharding.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import Block
from mezzotint.methods.method import Method
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.gradient_cache import GradientCache
from mezzotint.train.settings import Run

_OPTIMIZERS = ("adamw", "sgd")


def require_shardable(method: Method, optimizer: str) -> None:
    """Refuse a method or an optimizer that needs whole tensors.

    Args:
        method: of the run.
        optimizer: kind of its optimizer.

    Raises:
        RecipeError: with the key to change.
    """
    kind = method.config["kind"]
    if not any(isinstance(module, Block) for module in method.encoder.modules()):
        raise RecipeError(
            "`run.compute.sharding: fsdp2` needs an encoder of transformer blocks, such as vit, "
            f"got {method.encoder.config['kind']}. Leave it out: networks of that size fit on each "
            "process."
        )
    if method.unshardable:
        raise RecipeError(
            f"`run.compute.sharding` must be none for {kind}, because {method.unshardable}. "
            "Leave it out."
        )
    if optimizer not in _OPTIMIZERS:
        raise RecipeError(
            f"`run.compute.sharding: fsdp2` needs an optimizer that treats each number alone, "
            f"{' or '.join(_OPTIMIZERS)}, got {optimizer}. Change `optimizer.kind`."
        )


def shard(method: Method) -> Encoder:
    """Divide the parameters of a method over all processes, in place.

    Returns:
        A copy of its encoder that is not divided, for `whole_encoder`.
    """
    dist.share_tensors(method)
    twin = copy.deepcopy(method.encoder).cpu()
    device = next(method.parameters()).device
    mesh = init_device_mesh(device.type, (dist.world_size(),))
    from torch.distributed.fsdp import fully_shard

    for module in list(method.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(method, mesh=mesh)
    return twin


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather divided tensors, one after the other; all processes call it together.

    Returns:
        All tensors on the main process, those that were divided on the CPU; none elsewhere.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if dist.is_main():
            found[name] = full.detach().cpu() if isinstance(tensor, DTensor) else full
    return found


def divided(tensors: Mapping[str, Tensor], alike: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide whole tensors as the tensors of the same names in `alike` are.

    Args:
        tensors: whole tensors, the same on all processes.
        alike: tensors of the method, divided or not.
    """
    return {name: as_divided(tensor, alike.get(name)) for name, tensor in tensors.items()}


def as_divided(tensor: Tensor, alike: Tensor | None) -> Tensor:
    """Divide a whole tensor as another one of its shape is; return it as it is otherwise."""
    if not isinstance(alike, DTensor) or tensor.shape != alike.shape:
        return tensor
    placed = tensor.to(alike.device)
    return distribute_tensor(placed, alike.device_mesh, alike.placements, src_data_rank=None)


@torch.no_grad()
def whole_encoder(encoder: Encoder, twin: Encoder | None) -> Encoder:
    """Return an encoder with whole weights on every process; all of them call it together.

    Args:
        encoder: encoder of a method, divided or not.
        twin: the copy that `shard` returned; `None` if the encoder is not divided.
    """
    if twin is None:
        return encoder
    device = next(encoder.parameters()).device
    twin.to(device).train(encoder.training)
    for own, other in (
        (twin.named_parameters(), encoder.named_parameters()),
        (twin.named_buffers(), encoder.named_buffers()),
    ):
        for (_, target), (_, source) in zip(own, other, strict=True):
            target.copy_(source.full_tensor() if isinstance(source, DTensor) else source)
    return twin


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Compute the norm of all gradients, `[]`, over all processes where they are divided."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


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


def copy_each(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy into the first tensor of each pair the second, all of a device and type at once."""
    kinds: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for target, value in pairs:
        targets, values = kinds.setdefault((value.device, value.dtype), ([], []))
        targets.append(local(target))
        values.append(local(value))
    for targets, values in kinds.values():
        torch._foreach_copy_(targets, values)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a divided tensor that this process has; others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
