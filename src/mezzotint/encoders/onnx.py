"""Encoders from elsewhere: any callable, and ONNX files through onnxruntime.

They can be evaluated like every other encoder, at any bit-width: a callable that is a
`torch.nn.Module` is quantized like ours, an ONNX file by `mezzotint.quant.onnx`. Any other callable
stays in full precision.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.quant.onnx.session import OnnxFunction
from mezzotint.recipe.component import factory
from mezzotint.types import Input

_FLOATS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


class ForeignEncoder(Encoder):
    """A function from samples to features.

    Args:
        input: shape and normalization of its samples.
        model: function from normalized `[B, *input.shape]` to `[B, dim]`; a module is registered,
            so that it is moved and quantized.
        dim: number of features.
    """

    def __init__(self, input: Input, model: Callable[[Tensor], Tensor], dim: int) -> None:
        super().__init__(input, dim)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]` → `[B, dim]`."""
        out = self.model(x)
        if out.shape != (len(x), self.dim):
            raise ValueError(
                f"{type(self.model).__name__} must return [{len(x)}, {self.dim}] for {len(x)} "
                f"samples, got {list(out.shape)}. Set the right `dim`, or pool its output."
            )
        return out


@factory
def onnx(
    input: Input,
    *,
    path: str,
    output: str | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> ForeignEncoder:
    """Encode samples by an ONNX file, which onnxruntime runs on the CPU.

    Args:
        input: of the data.
        path: path of the ONNX file.
        output: name of the output with the features; by default the first.
        mean: mean of each channel that the network was trained with, for values in [0, 1]; by
            default the mean of the data.
        std: standard deviation of each channel, likewise.

    Raises:
        ValueError: when onnxruntime is missing, or the file does not map such samples to features.
    """
    stated = Input(input.shape, tuple(mean or input.mean), tuple(std or input.std), input.modality)
    network = OnnxFeatures(path, stated.shape, output)
    return ForeignEncoder(stated, network, network.dim)


class OnnxFeatures:
    """An ONNX file that maps samples to features.

    Args:
        path: path of the file.
        shape: shape of one sample.
        output: name of the output to return; `None` is the first.

    Attributes:
        path: path of the file.
        output: name of the output that is returned.
        dim: number of features.

    Raises:
        ValueError: when onnxruntime is missing, or the file does not map such samples to features.
    """

    def __init__(self, path: str | Path, shape: tuple[int, ...], output: str | None = None) -> None:
        if not Path(path).is_file():
            raise ValueError(f"`{path}` is not a file. It must be an ONNX file. Check the path.")
        function = OnnxFunction(path)
        self.path = path
        self._dtype, self._batch = _input_of(function, path, shape)
        self.output, self.dim = _output_of(function, path, output)
        function.outputs = [self.output]
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[B, *shape]` to float32 `[B, dim]`, in several runs if the file fixes its batch."""
        return torch.cat([self._run(part) for part in self.batches(x)])[: len(x)]

    def batches(self, x: Tensor) -> list[Tensor]:
        """Split `x` by the file's batch size; copies of the last sample fill the last batch."""
        if self._batch is None:
            return [x]
        missing = -len(x) % self._batch
        return list(torch.split(torch.cat((x, x[-1:].expand(missing, *x.shape[1:]))), self._batch))

    def _run(self, x: Tensor) -> Tensor:
        return self._function(x.to(self._dtype)).to(x.device, torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxFeatures":
        return self  # nothing in it changes


def _input_of(
    function: OnnxFunction, path: str | Path, shape: tuple[int, ...]
) -> tuple[torch.dtype, int | None]:
    """Return the input's type and, if the file fixes it, its number of samples."""
    batch, *sizes = function.input_shape or [None]
    fits = len(sizes) == len(shape) and all(
        not isinstance(size, int) or size == expected
        for size, expected in zip(sizes, shape, strict=True)
    )
    if function.input_type not in _FLOATS or not fits:
        raise ValueError(
            f"`{path}` takes {function.input} {function.input_type} {function.input_shape}. It "
            f"must take floats [batch, {', '.join(map(str, shape))}], the shape of the data. "
            "Export the network for this shape, or choose other data."
        )
    return _FLOATS[function.input_type], batch if isinstance(batch, int) else None


def _output_of(function: OnnxFunction, path: str | Path, output: str | None) -> tuple[str, int]:
    """Return the name of the features and their number."""
    name = function.outputs[0] if output is None else output
    if name not in function.output_shapes:
        raise ValueError(
            f"`encoder.output` must be an output of `{path}`, got {name!r}. "
            f"Its outputs: {', '.join(function.output_shapes)}."
        )
    shape = function.output_shapes[name]
    dim = shape[1] if len(shape) == 2 else None
    if not isinstance(dim, int):
        raise ValueError(
            f"Output {name!r} of `{path}` has the shape {shape}. It must be [batch, features] with "
            "a fixed number of features. Name another output, or export the pooled features."
        )
    return name, dim
