"""A few training steps of a method, with the size of every output, its change and spectral norms.

The batch stays the same, so that outputs of later steps can be compared with those of the first:
the change is what training has done. Cosine matrices of projections and predictions are measured
like outputs, because the losses of siamese methods see nothing else of them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.conv import _ConvNd

from mezzotint.optim.mup.coord_check import Recorder, Row
from mezzotint.optim.mup.readout import is_readout

_HEADS = ("projector", "predictor")


def train_and_measure(
    method: Any, optimizer: torch.optim.Optimizer, views: Any, *, steps: int = 4, seed: int = 0
) -> list[Row]:
    """Train on one batch and measure.

    Args:
        method: freshly built method; trained in place.
        optimizer: its optimizer.
        views: the batch.
        steps: number of steps.
        seed: seed of dropout, the same at every step.

    Returns:
        A row for each step `t` (from 1) and module, with `l1`, the mean absolute coordinate of its
        output, `readout`, and from t = 2 on `change`, that of the difference to t = 1. Rows of
        cosine matrices have modules `projector:cosine` and the like. A row for each weight matrix,
        at the last step, has `weight` and `update`: spectral norms of the weight and of all steps
        together; and, where Muon makes the steps, `tokens` and `channels`: the positions
        of all samples and views that meet it in a step, and how many outputs it has.
    """
    method.train()
    matrices = {n: p for n, p in method.named_parameters() if p.ndim >= 2 and p.requires_grad}
    start = {name: p.detach().clone() for name, p in matrices.items()}
    readouts = {name for name, module in method.named_modules() if is_readout(module)}
    by_muon = {id(p) for g in optimizer.param_groups if g.get("orthogonal") for p in g["params"]}
    first: dict[str, Tensor] = {}
    rows: list[Row] = []
    tokens = _count_tokens(method)
    for t in range(1, steps + 1):
        torch.manual_seed(seed)
        with Recorder(method) as seen:
            loss = method(views).loss
        # What passes a readout's output on unchanged counts as the readout.
        passed = {id(seen.outputs[name]) for name in readouts if name in seen.outputs}
        for name, output in _outputs(seen):
            row: Row = {"module": name, "t": t, "l1": output.abs().mean().item()}
            row["readout"] = name in seen.outputs and id(seen.outputs[name]) in passed
            before = first.setdefault(name, output)
            if t > 1:
                row["change"] = (output - before).abs().mean().item()
            rows.append(row)
        rows.append({"module": "loss", "t": t, "loss": float(loss.detach())})
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        method.after_step(t / steps)
    for name, p in matrices.items():
        weight, update = p.detach().flatten(1), (p.detach() - start[name]).flatten(1)
        row = {"module": name, "t": steps}
        row |= {"weight": spectral_norm(weight), "update": spectral_norm(update)}
        if id(p) in by_muon:
            row |= {"tokens": tokens[name.rpartition(".")[0]] // steps, "channels": len(p)}
        rows.append(row)
    return rows


def _count_tokens(method: nn.Module) -> Counter[str]:
    """Count from now on the positions of all samples that meet each linear and convolution."""
    found: Counter[str] = Counter()

    def count(name: str, channels: int) -> Any:
        def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] += output.numel() // channels

        return add

    for name, module in method.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count(name, module.out_features))
        elif isinstance(module, _ConvNd):
            module.register_forward_hook(count(name, module.out_channels))
    return found


def _outputs(seen: Recorder) -> Iterator[tuple[str, Tensor]]:
    for name, output in seen.outputs.items():
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            value = output.detach().float()
            yield name, value
            if name.rpartition(".")[2] in _HEADS and value.ndim == 2:
                unit = normalize(value, dim=1)
                yield f"{name}:cosine", unit @ unit.T


@torch.no_grad()
def spectral_norm(matrix: Tensor, *, iterations: int = 20) -> float:
    """Largest singular value of a matrix, by power iteration."""
    columns = matrix.shape[1]
    vector = torch.ones(columns, dtype=matrix.dtype, device=matrix.device)
    vector += torch.linspace(0.0, 1.0, columns, device=matrix.device)
    for _ in range(iterations):
        vector = normalize(matrix.T @ (matrix @ vector), dim=0)
    return float((matrix @ vector).norm())


def parameters_of(module: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
