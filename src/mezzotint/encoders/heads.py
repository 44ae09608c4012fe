"""Projectors and predictors: the multi-layer perceptrons that stand on an encoder while it is trained.

The methods differ only in widths, in which linears have a bias, and in whether a BatchNorm ends the
head; one builder says all of them. Parameter counts of BYOL's and SimSiam's heads are checked
against the papers' in the tests.
"""

from collections.abc import Sequence

from torch import nn


def mlp(
    dims: Sequence[int],
    *,
    hidden_bias: bool = True,
    last_bias: bool = True,
    last_norm: bool = False,
) -> nn.Sequential:
    """Linear, BatchNorm and ReLU for each hidden layer, then a last Linear.

    Args:
        dims: widths from input to output, `[d, 4096, 256]` for two layers.
        hidden_bias: whether the hidden linears have a bias. The BatchNorm that follows undoes it;
            papers differ.
        last_bias: whether the last linear has one.
        last_norm: end with a BatchNorm that has neither scale nor shift, so that each output has
            mean 0 and variance 1 over the batch.

    Returns:
        A module of `[B, dims[0]]` → `[B, dims[-1]]`.

    Raises:
        ValueError: for fewer than two widths, or one below 1.
    """
    if len(dims) < 2 or min(dims) < 1:
        raise ValueError(
            f"a head's widths must be at least two positive integers, got {list(dims)}; "
            "raise the method's dim, hidden_dim or number of layers"
        )
    layers: list[nn.Module] = []
    for inputs, outputs in zip(dims[:-2], dims[1:-1], strict=True):
        layers += [
            nn.Linear(inputs, outputs, bias=hidden_bias),
            nn.BatchNorm1d(outputs),
            nn.ReLU(inplace=True),
        ]
    layers.append(nn.Linear(dims[-2], dims[-1], bias=last_bias))
    if last_norm:
        layers.append(nn.BatchNorm1d(dims[-1], affine=False))
    return nn.Sequential(*layers)
