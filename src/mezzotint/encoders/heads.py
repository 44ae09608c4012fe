"""Projectors and predictors: the perceptrons on top of an encoder during training.

Methods differ only in the widths, in which linears have a bias, and in whether the head ends with a
BatchNorm, so one function builds them all. The tests check the parameter counts of BYOL's and
SimSiam's heads against the papers.
"""

from collections.abc import Sequence

from torch import nn


def mlp(
    dims: Sequence[int],
    *,
    hidden_norm: bool = True,
    hidden_bias: bool = True,
    last_bias: bool = True,
    last_norm: bool = False,
) -> nn.Sequential:
    """Build a perceptron: Linear, BatchNorm and ReLU for each hidden layer, then a last Linear.

    Args:
        dims: widths from input to output, such as `[d, 4096, 256]` for two layers.
        hidden_norm: put a BatchNorm between each hidden linear and its ReLU.
        hidden_bias: give hidden linears a bias. The BatchNorm after them cancels it; papers differ.
        last_bias: give the last linear a bias.
        last_norm: end with a BatchNorm without scale and shift, so that each output has mean 0 and
            variance 1 over the batch.

    Returns:
        A module `[B, dims[0]]` → `[B, dims[-1]]`.

    Raises:
        ValueError: for fewer than two widths, or one below 1.
    """
    if len(dims) < 2 or min(dims) < 1:
        raise ValueError(
            f"The widths of a head must be at least two positive numbers, got {list(dims)}. "
            "Increase the `dim`, `hidden_dim` or number of layers of the method."
        )
    layers: list[nn.Module] = []
    for inputs, outputs in zip(dims[:-2], dims[1:-1], strict=True):
        layers.append(nn.Linear(inputs, outputs, bias=hidden_bias))
        if hidden_norm:
            layers.append(nn.BatchNorm1d(outputs))
        # Overwrites its input, for memory: no gradient of BatchNorm or Linear needs their output.
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_bias))
    if last_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=False))
    return nn.Sequential(*layers)
