"""Encoders from elsewhere: any callable, and ONNX files through onnxruntime.

They can be evaluated like every other encoder, at any bit-width: a callable that is a
`torch.nn.Module` is quantized like ours, an ONNX file by `mezzotint.quant.onnx`. Any other callable
stays in full precision.

A file of `mezzotint export` states its input and the preprocessing in its metadata. Where a file
fixes the length of a sample that may have any, such as the frames of audio, longer samples are cut
into windows of that length, whose features are averaged, and shorter ones are repeated to it.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.modality.modality import modality_of
from mezzotint.quant.onnx.session import OnnxFunction
from mezzotint.recipe.component import factory
from mezzotint.types import Input

_FLOATS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}
_IDS = {"tensor(int64)": torch.int64, "tensor(int32)": torch.int32}


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
        mean: mean of each channel that the network was trained with, any number, for values in
            [0, 1]; by default the mean of the data.
        std: standard deviation of each channel, likewise.

    Raises:
        ValueError: when onnxruntime is missing, or the file does not map such samples to features.
    """
    if std is not None and min(std, default=1.0) <= 0.0:
        raise ValueError(f"`encoder.std` must be positive, got {std}. Leave it out for the data's.")
    network = OnnxFeatures(path, input, output)
    own = network.stated or input
    stated = dataclasses.replace(input, mean=tuple(mean or own.mean), std=tuple(std or own.std))
    encoder = ForeignEncoder(stated, network, network.dim)
    encoder.preprocessing = network.preprocessing
    return encoder


def load_exported(
    path: str | Path, input: Callable[[], Input] | None = None, *, own_size: bool = False
) -> ForeignEncoder:
    """Read an ONNX file as an encoder.

    Args:
        path: path of the file.
        input: makes the input of a file that does not state its own, such as another project's.
        own_size: take the size and the channels that such a file fixes, for callers that bring
            images to them.

    Raises:
        ValueError: when onnxruntime is missing, or the file does not map samples to features.
    """
    network = OnnxFeatures(path, input, own_size=own_size)
    encoder = ForeignEncoder(network.expected, network, network.dim)
    encoder.config = {"kind": "onnx", "path": str(path)}
    encoder.preprocessing = network.preprocessing
    return encoder


class OnnxFeatures:
    """An ONNX file that maps samples to features.

    Args:
        path: path of the file.
        input: input of the samples, or what makes it; used where the file states none.
        output: name of the output to return; `None` is the first.
        own_size: take the size and the channels that a file fixes which states no input.

    Attributes:
        path: path of the file.
        output: name of the output that is returned.
        dim: number of features.
        stated: input that the file's metadata state; `None` for files of other projects.
        expected: input of the samples that it is run on.
        preprocessing: preprocessing that the metadata state; empty without it.

    Raises:
        ValueError: when onnxruntime is missing, or the file does not map such samples to features.
    """

    def __init__(
        self,
        path: str | Path,
        input: Input | Callable[[], Input] | None,
        output: str | None = None,
        *,
        own_size: bool = False,
    ) -> None:
        if not Path(path).is_file():
            raise ValueError(f"`{path}` is not a file. It must be an ONNX file. Check the path.")
        function = OnnxFunction(path)
        self.path = path
        self.stated = stated_input(function.metadata)
        self.preprocessing = json.loads(function.metadata.get("preprocessing", "{}"))
        if isinstance(input, Input):
            expected = input
        else:
            made = self.stated if self.stated is not None else input and input()
            if made is None:
                raise ValueError(
                    f"`{path}` does not state its input. Name the data, such as "
                    "data.kind=image_folder data.root=photos."
                )
            expected = made
        if own_size and self.stated is None:
            expected = _at_fixed_size(expected, function.input_shape)
        self.expected = expected
        self._dtype, self._batch, self._length = _input_of(function, path, expected)
        self.output, self.dim = _output_of(function, path, output)
        function.outputs = [self.output]
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[B, *shape]` to float32 `[B, dim]`, in several runs if the file fixes its batch."""
        windows = self._windows(x)
        rows = torch.cat([self._run(part) for part in self._split(windows)])[: len(windows)]
        if not len(x):
            return rows.reshape(0, self.dim)
        return rows.view(len(x), -1, self.dim).mean(dim=1)

    def batches(self, x: Tensor) -> list[Tensor]:
        """Split `x` by the file's batch size; copies of the last sample fill the last batch."""
        return self._split(self._windows(x))

    def _split(self, x: Tensor) -> list[Tensor]:
        if self._batch is None:
            return [x]
        # A file with a fixed batch refuses any other size; the copies' features are cut off again.
        missing = -len(x) % self._batch
        return list(torch.split(torch.cat((x, x[-1:].expand(missing, *x.shape[1:]))), self._batch))

    def _windows(self, x: Tensor) -> Tensor:
        """Cut `[B, …, T]` into windows of the file's length L, `[B · W, …, L]`."""
        length, frames = self._length, x.shape[-1]
        if length is None or frames == length:
            return x
        if frames < length:  # repeated, because silence would be another input than in training
            return x.repeat(*(1 for _ in x.shape[1:]), -(-length // frames))[..., :length]
        count = -(-frames // length)
        starts = [round(n * (frames - length) / (count - 1)) for n in range(count)]
        return torch.stack([x[..., s : s + length] for s in starts], dim=1).flatten(0, 1)

    def _run(self, x: Tensor) -> Tensor:
        return self._function(x.to(self._dtype)).to(x.device, torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxFeatures":
        return self  # nothing in it changes


def stated_input(metadata: Mapping[str, str]) -> Input | None:
    """Read the input that the metadata of an exported file state; `None` without it."""
    if "input" not in metadata:
        return None
    return Input.of(json.loads(metadata["input"]))


def _at_fixed_size(input: Input, shape: Sequence[int | str | None]) -> Input:
    """Return an input of images with the sizes that a file fixes, and its channels if gray or RGB.

    Other channels get the average of the mean and of the standard deviation.
    """
    sizes = tuple(
        size if isinstance(size, int) else own
        for size, own in zip(shape[1:], input.shape, strict=False)
    )
    channels = input.shape[0]
    if len(shape) != 4 or len(sizes) != 3 or sizes[0] not in (1, 3, channels):
        return input
    mean, std = input.mean, input.std
    if sizes[0] != channels:
        mean, std = ((sum(v) / channels,) * sizes[0] for v in (mean, std))
    return Input(sizes, mean, std)


def _input_of(
    function: OnnxFunction, path: str | Path, input: Input
) -> tuple[torch.dtype, int | None, int | None]:
    """Return the input's type and, where the file fixes them, its batch and its length."""
    batch, *sizes = function.input_shape or [None]
    shape, free = input.shape, modality_of(input).free_axes
    fits = len(sizes) == len(shape) and all(
        not isinstance(size, int) or size == expected or axis >= len(shape) - free
        for axis, (size, expected) in enumerate(zip(sizes, shape, strict=True))
    )
    known, words = (_FLOATS, "floats") if input.blank().is_floating_point() else (_IDS, "ids")
    if function.input_type not in known or not fits:
        raise ValueError(
            f"`{path}` takes {function.input} {function.input_type} {function.input_shape}. It "
            f"must take {words} [batch, {', '.join(map(str, shape))}], the shape of the data. "
            "Export the network for this shape, or choose other data."
        )
    length = sizes[-1] if free and isinstance(sizes[-1], int) else None
    return known[function.input_type], batch if isinstance(batch, int) else None, length


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
