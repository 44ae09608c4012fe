"""The verifier refuses artifacts with planted errors."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export.verify import Artifact, VerificationError, verify
from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction
from mezzotint.types import Input
from tests.onnx_graphs import images, residual

INPUT = Input((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Colored(InMemory):
    """Eight noisy patterns, one for each label."""

    def __init__(self, *, labeled: bool = True) -> None:
        rng = np.random.default_rng(0)
        patterns = rng.integers(0, 256, (8, 3, 8, 8))
        self.labels = np.arange(400) % 8
        noisy = patterns[self.labels] + rng.normal(0, 90, (400, 3, 8, 8))
        self.images = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))
        self.input, self.ids, self.labeled = INPUT, "colored", labeled

    def evaluation(self) -> tuple[Source, list[Task]]:
        tasks = [
            Task("pattern/holdout", "classify", self.labels, np.arange(200), np.arange(200, 400))
        ]
        return self, tasks if self.labeled else []


class Reference(Encoder):
    """The fp32 graph as an encoder."""

    def __init__(self, path: Path) -> None:
        super().__init__(INPUT, 16)
        self.function = OnnxFunction(path)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x)
        return out


@dataclasses.dataclass
class Made:
    path: Path
    artifact: Artifact
    encoder: Reference

    def verify(self, **changes: Any) -> dict[str, Any]:
        return verify(
            dataclasses.replace(self.artifact, **changes), Measurement(self.encoder, Colored())
        )

    def mutated(self, change: Callable[[Any], None]) -> Path:
        model = onnx.load(self.path)
        change(model)
        onnx.save(model, self.path)
        return self.path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    float_path, path = residual(tmp_path / "float.onnx"), tmp_path / "encoder.onnx"
    done = quantize_onnx(float_path, path, [images()])
    facts = {
        "operators": {
            "quantized": len(done.quantized),
            "of": 4,
            "integer_kernels": done.integer_kernels,
        },
        "storage_bits": "W8A8",
    }
    artifact = Artifact(
        (path,),
        lambda: OnnxFunction(path),
        OnnxFunction(path.read_bytes(), optimize=False),
        OnnxFunction(float_path),
        float_path.stat().st_size,
        "quantized",
        facts,
    )
    return Made(path, artifact, Reference(float_path))


def test_a_sound_artifact_is_described_in_full(made: Made) -> None:
    found = made.verify()
    assert set(found["batches"]) == {"1", "2", "7"} and found["samples"] == 400
    assert found["to_simulation"]["cosine_p01"] > 0.999 and found["to_float"]["cosine_mean"] > 0.99
    knn = found["knn"]
    assert knn["task"] == "pattern/holdout" and (knn["train"], knn["test"]) == (200, 200)
    assert abs(knn["artifact"] - knn["simulation"]) <= knn["allowed_difference"] == 0.01
    assert found["bytes"]["artifact"] == made.path.stat().st_size
    took = found["milliseconds"]
    assert (
        took["artifact"] > 0 and took["float"] > 0 and took["batch"] == 8 and took["repeats"] >= 3
    )
    assert found["files"].keys() == {"encoder.onnx"} and "cpu" in found["environment"]


def scale_one_weight(model: Any) -> None:
    tensor = next(
        t for t in model.graph.initializer if t.name.startswith("w2_") and t.name.endswith("_codes")
    )
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))


def flip_one_code(model: Any) -> None:
    tensor = next(
        t for t in model.graph.initializer if t.name.startswith("w2_") and t.name.endswith("_codes")
    )
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1 if values.flat[0] < 127 else -1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize("change", [scale_one_weight, flip_one_code])
def test_a_file_that_was_mutated_after_writing_is_refused(
    change: Callable[[Any], None], made: Made
) -> None:
    made.mutated(change)
    with pytest.raises(VerificationError, match="`encoder.onnx` has changed since it was written"):
        verify(made.artifact, Measurement(made.encoder, Colored()))


def test_a_wrong_initializer_that_was_written_so_is_refused_by_what_it_computes(made: Made) -> None:
    made.mutated(scale_one_weight)
    with pytest.raises(
        VerificationError, match=r"refused: the cosine between .* must be at least 0.99, got"
    ):
        made.verify()  # with the hash of the mutated file


def test_nothing_quantized_is_refused(made: Made) -> None:
    operators = {"quantized": 0, "of": 4, "integer_kernels": {}}
    with pytest.raises(
        VerificationError, match="0 of 4 operators are quantized, and at least 1 must be"
    ):
        made.verify(facts={"operators": operators})
    with pytest.raises(
        VerificationError,
        match="4 operators are quantized, but the runtime computes none in integers",
    ):
        made.verify(facts={"operators": operators | {"quantized": 4}})


def test_a_lost_dynamic_batch_is_refused(made: Made, tmp_path: Path) -> None:
    fixed = residual(tmp_path / "fixed.onnx", batch=2)
    with pytest.raises(VerificationError, match="does not run on a batch of 1"):
        made.verify(open=lambda: OnnxFunction(fixed))
    with pytest.raises(
        VerificationError, match=r"a batch of 1 must have shape \[1, 16\], got \[2, 16\]"
    ):
        made.verify(open=lambda: lambda x: torch.zeros(2, 16))


def test_features_that_are_not_finite_are_refused(made: Made) -> None:
    with pytest.raises(VerificationError, match="contain NaN or inf on a batch of 1"):
        made.verify(open=lambda: lambda x: torch.full((len(x), 16), torch.nan))


def test_an_exporter_that_is_silently_wrong_is_refused(made: Made) -> None:
    """The fp32 model in the runtime must be the encoder, or the simulation proves nothing."""
    with pytest.raises(
        VerificationError, match="differs from the encoder by up to .* of the largest feature"
    ):
        made.verify(reference=lambda x: made.encoder(x) * 1.001)


def test_exact_formats_must_be_exact(made: Made) -> None:
    exact = made.encoder.function
    assert (
        made.verify(agreement="equal", open=lambda: exact, simulation=exact)["to_simulation"][
            "max_error"
        ]
        == 0
    )
    with pytest.raises(VerificationError, match="from the simulation by up to .* must be 0"):
        made.verify(
            agreement="equal", open=lambda: lambda x: exact(x) * (1 + 1e-6), simulation=exact
        )
    made.verify(agreement="float", open=lambda: lambda x: exact(x) * (1 + 1e-6), simulation=exact)
    with pytest.raises(VerificationError, match="At most 0.0001 of the largest feature"):
        made.verify(agreement="float", open=lambda: lambda x: exact(x) * 1.01, simulation=exact)


def test_an_error_that_shows_only_on_many_samples_is_refused(made: Made) -> None:
    def broken(x: Tensor) -> Tensor:
        out: Tensor = made.artifact.simulation(x)
        return out if len(x) <= 8 else -out

    with pytest.raises(
        VerificationError, match=r"the cosine between artifact and simulation .* on 400 samples"
    ):
        made.verify(open=lambda: broken)


def test_neighbors_that_differ_are_refused_even_at_a_high_cosine(made: Made) -> None:
    """A constant added to all features hides differences from the cosine, not from kNN."""
    noise = torch.Generator().manual_seed(0)

    def shifted(x: Tensor) -> Tensor:
        out: Tensor = 1000 + made.encoder(x)
        return out

    def noisy(x: Tensor) -> Tensor:
        return shifted(x) + 3 * torch.randn(len(x), 16, generator=noise)

    with pytest.raises(VerificationError, match="refused: kNN top-1 is .* must be at most 0.0100"):
        made.verify(open=lambda: noisy, simulation=shifted)


def test_without_labels_the_features_are_compared_alone(made: Made) -> None:
    found = verify(made.artifact, Measurement(made.encoder, Colored(labeled=False)))
    assert found["knn"] is None and found["samples"] == 400
