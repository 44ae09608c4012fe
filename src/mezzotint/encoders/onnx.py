"""Encoders that were made elsewhere: any callable, and ONNX files through onnxruntime.

They can be evaluated like every other, at every number of bits: a callable that is a
`torch.nn.Module` is quantized as ours are, an ONNX file by `mezzotint.quant.onnx`. Any other
callable is what it is.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import factory
from mezzotint.types import Input

_FLOATS = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


class ForeignEncoder(Encoder):
    """A function from inputs to features.

    Args:
        input: what the function takes.
        model: normalized `[B, *input.shape]` → `[B, dim]`; a module is registered, so that it is
            moved and quantized.
        dim: width of the features.
    """

    def __init__(self, input: Input, model: Callable[[Tensor], Tensor], dim: int) -> None:
        super().__init__(input, dim)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]` → `[B, dim]`."""
        out = self.model(x)
        if out.shape != (len(x), self.dim):
            raise ValueError(
                f"an encoder of dim={self.dim} returns [{len(x)}, {self.dim}] for {len(x)} samples, and "
                f"{type(self.model).__name__} returned {list(out.shape)}; give the right dim, or a network that pools"
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
    """An ONNX file, run by onnxruntime on the CPU.

    Args:
        input: of the data.
        path: of the file.
        output: name of the output that holds the features; by default the first.
        mean: per channel, that the network was trained with, of values in [0, 1]; by default the
            data's.
        std: per channel.

    Raises:
        ValueError: when onnxruntime is missing, or the file is no network from such inputs to
            features.
    """
    stated = Input(input.shape, tuple(mean or input.mean), tuple(std or input.std), input.modality)
    session = OnnxSession(path, stated.shape, output)
    return ForeignEncoder(stated, session, session.dim)


class OnnxSession:
    """A network in an ONNX file.

    Args:
        path: of the file.
        shape: of one sample.
        output: name of the output to return; `None` is the first.

    Attributes:
        path: of the file.
        output: name of the output returned.
        dim: width of the features.
    """

    def __init__(self, path: str | Path, shape: tuple[int, ...], output: str | None = None) -> None:
        runtime = _runtime()
        if not Path(path).is_file():
            raise ValueError(
                f"got {str(path)!r}, which is no file; allowed is an ONNX file: check the path"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session: Any = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: B902 - the runtime raises classes of its own, one a kind of failure
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} cannot be opened by onnxruntime: {reason}; give a valid ONNX file"
            ) from error
        self.path = path
        self._input, self._dtype, self._batch = self._entrance(shape)
        self.output, self.dim = self._exit(output)

    def _entrance(self, shape: tuple[int, ...]) -> tuple[str, torch.dtype, int | None]:
        """Name, type and fixed number of samples of the only input."""
        inputs = self._session.get_inputs()
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        only = inputs[0] if len(inputs) == 1 else None
        if (
            only is None
            or only.type not in _FLOATS
            or len(only.shape) != len(shape) + 1
            or any(
                isinstance(a, int) and a != b for a, b in zip(only.shape[1:], shape, strict=True)
            )
        ):
            raise ValueError(
                f"{self.path}: got the inputs {found}; allowed is one of floats [batch, "
                f"{', '.join(map(str, shape))}], as the data is: export the network for it, or choose other data"
            )
        return (
            only.name,
            _FLOATS[only.type],
            only.shape[0] if isinstance(only.shape[0], int) else None,
        )

    def _exit(self, output: str | None) -> tuple[str, int]:
        outputs = {found.name: found for found in self._session.get_outputs()}
        name = next(iter(outputs)) if output is None else output
        if name not in outputs:
            raise ValueError(
                f"{self.path}: got output={name!r}; allowed: {', '.join(outputs)}; choose one"
            )
        shape = outputs[name].shape
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise ValueError(
                f"{self.path}: output {name} has the shape {shape}; allowed is [batch, features] with a fixed number "
                "of features: name another output, or export the pooled features"
            )
        return name, shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """`[B, *shape]` → float32 `[B, dim]`; a file of a fixed batch is run as often as that takes."""
        return torch.cat([self._run(part) for part in self.batches(x)])[: len(x)]

    def batches(self, x: Tensor) -> list[Tensor]:
        """`x` as the file takes it: whole, or in parts of its fixed batch, the last filled up with its last sample."""
        if self._batch is None:
            return [x]
        missing = -len(x) % self._batch
        return list(torch.split(torch.cat((x, x[-1:].expand(missing, *x.shape[1:]))), self._batch))

    def _run(self, x: Tensor) -> Tensor:
        (out,) = self._session.run(
            [self.output], {self._input: x.to("cpu", self._dtype).contiguous().numpy()}
        )
        return torch.from_numpy(out).to(x.device, torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxSession":
        return self  # nothing in it changes


def _runtime() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise ValueError(
            "an ONNX file needs the package onnxruntime, which is not installed; pip install 'mezzotint[onnx]', or "
            "evaluate the network from Python"
        ) from error
