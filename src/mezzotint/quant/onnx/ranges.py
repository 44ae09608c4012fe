"""Ranges of a graph's tensors: our observers, fed by the runtime that will serve the graph."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.quant.observers import Observer
from mezzotint.quant.onnx.session import OnnxFunction
from mezzotint.schema import construct, resolve

ObserverKind = str | Mapping[str, Any] | Callable[[], Observer]
Batches = Iterable[Tensor | np.ndarray[Any, Any]]


def make_observer(observer: ObserverKind) -> Observer:
    """An observer by kind, such as `"min_max"`, by kind and keys, or by a function that makes one.

    Raises:
        RecipeError: for an unknown kind or key, with those that are known.
    """
    if callable(observer):
        return observer()
    made: Observer = construct(resolve(observer, "Observer", "observer"), "Observer", {})
    return made


def observe(
    model: bytes, tensors: Sequence[str], batches: Batches, observer: ObserverKind = "min_max"
) -> tuple[dict[str, Observer], int]:
    """Run a model over calibration data, and collect the ranges of some of its tensors.

    Args:
        model: an ONNX model.
        tensors: names of activations; each gets one range.
        batches: normalised inputs; each as large as a model with a fixed batch size wants it.
        observer: its kind, or what makes it.

    Returns:
        The observers, by tensor, and how many samples they have seen.

    Raises:
        ValueError: when there are no samples, or a tensor is not finite.
    """
    import onnx

    collectors = {name: make_observer(observer) for name in tensors}
    graph = onnx.load_from_string(model)
    function = OnnxFunction(model)
    inner = [name for name in tensors if name != function.input]
    given = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in given)
    function = OnnxFunction(graph.SerializeToString(), outputs=inner)
    seen = 0
    for batch in batches:
        x = batch if isinstance(batch, Tensor) else torch_of(batch)
        values = {**function.run(x), function.input: x}
        for name, collector in collectors.items():
            value = values[name]
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"the activation {name} is not finite on the calibration data; allowed are finite values: look at "
                    "the weights and at the input's normalisation"
                )
            collector.update(value.float().reshape(1, -1))
        seen += len(x)
    if seen == 0:
        raise ValueError("the calibration set is empty; allowed is one sample or more: give batches of inputs")
    return collectors, seen


def torch_of(array: np.ndarray[Any, Any]) -> Tensor:
    """A float32 tensor of an array."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
