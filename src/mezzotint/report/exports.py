"""Section of the report on exports: what each artifact takes in storage, and what verified it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mezzotint.evaluation.results import signed
from mezzotint.quant.bitwidth import Bits
from mezzotint.report.results import score, task_words

_FORMATS = {"onnx": "ONNX", "packed": "Packed", "torch_export": "torch.export"}


def exports_section(folder: Path) -> dict[str, Any] | None:
    """Prepare the section from `exports/*/verification.json`; `None` without any.

    The artifacts of integer arithmetic come first, then by size, the largest first.
    """
    found = []
    for path in folder.glob("exports/*/verification.json"):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    if not found:
        return None
    found.sort(key=lambda one: (_computes_in_fp32(one), -one["bytes"]["artifact"], one["bits"]))
    rows = [_row(verification) for verification in found]
    largest = max(one["bytes"]["artifact"] for one in found)
    for row, verification in zip(rows, found, strict=True):
        row["fraction"] = round(verification["bytes"]["artifact"] / largest, 3)
    task = next((one["knn"]["task"] for one in found if one["knn"]), "")
    also = f", and by kNN on {task_words(task)}" if task else ""
    return {
        "how": "Each file was run again in the runtime that serves it, and was kept because its "
        "features agree with what it should compute, the simulation. What it lost against fp32 is "
        f"shown by the cosine of the features{also}.",
        "rows": rows,
        "knn": bool(task),
    }


def _computes_in_fp32(verification: Mapping[str, Any]) -> bool:
    return Bits.parse(verification["compute_bits"]).is_float


def _row(verification: Mapping[str, Any]) -> dict[str, Any]:
    size, knn = verification["bytes"], verification["knn"]
    format = verification["format"]
    bits = verification.get("bits_per_weight")
    change = knn["artifact"] - knn["float"] if knn else math.nan
    return {
        "name": f"{_FORMATS.get(format, format)}, {verification['bits']}",
        "runtime": "{name} {version}".format(**verification["runtime"]),
        "size": _kilobytes(size["artifact"]),
        "ratio": f"{size['ratio']:.2f} of fp32",
        "per_weight": f"{bits:.2f} bits a weight with scales" if bits else "",
        "verified": f"✓ on {verification['samples']:,} samples",
        "simulation": f"{verification['to_simulation']['cosine_mean']:.5f}",
        "cosine": f"{verification['to_float']['cosine_mean']:.5f}",
        "knn": score(knn["artifact"]) if knn else "–",
        "change": signed(change),
        "time": _time(verification),
    }


def _time(verification: Mapping[str, Any]) -> str:
    times = verification["milliseconds"]
    # Two computations in fp32 differ by noise alone.
    if _computes_in_fp32(verification):
        return "computes in fp32"
    return f"{times['artifact']:.2f} ms for {times['batch']} samples, fp32 {times['float']:.2f} ms"


def _kilobytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
