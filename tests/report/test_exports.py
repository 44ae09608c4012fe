"""The section on exports: what each artifact takes, and what verified it."""

import json
from pathlib import Path
from typing import Any

from mezzotint.report.exports import exports_section


def write(
    run: Path, format: str, bits: str, size: int, *, compute: str = "fp32", **changes: Any
) -> None:
    folder = run / "exports" / f"{format}-{bits}"
    folder.mkdir(parents=True)
    verification = {
        "format": format,
        "bits": bits,
        "storage_bits": bits,
        "compute_bits": compute,
        "runtime": {"name": "onnxruntime", "version": "1.2"},
        "samples": 1797,
        "bytes": {"artifact": size, "float": 40_000, "ratio": size / 40_000},
        "to_simulation": {"cosine_mean": 0.999987},
        "to_float": {"cosine_mean": 0.99},
        "milliseconds": {"batch": 8, "artifact": 0.5, "float": 1.25, "speed_up": 2.5},
        "knn": {"task": "class/holdout", "artifact": 0.7, "float": 0.725},
    }
    (folder / "verification.json").write_text(json.dumps(verification | changes))


def test_each_artifact_has_its_size_and_what_verified_it(tmp_path: Path) -> None:
    write(tmp_path, "packed", "W4A32", 8_000, bits_per_weight=4.26)
    write(tmp_path, "packed", "W8A32", 16_000)
    write(tmp_path, "onnx", "W8A8", 12_345, compute="W8A8")
    section = exports_section(tmp_path)
    assert section is not None and "and by kNN on class, holdout." in section["how"]
    rows = section["rows"]
    assert [row["name"] for row in rows] == ["ONNX, W8A8", "Packed, W8A32", "Packed, W4A32"]
    assert [row["size"] for row in rows] == ["12.3 kB", "16.0 kB", "8.0 kB"]
    assert [row["fraction"] for row in rows] == [0.772, 1.0, 0.5]
    assert rows[0]["verified"] == "✓ on 1,797 samples" and rows[0]["ratio"] == "0.31 of fp32"
    assert (rows[0]["simulation"], rows[0]["cosine"]) == ("0.99999", "0.99000")
    assert (rows[0]["knn"], rows[0]["change"]) == ("0.700", "−0.025")
    assert rows[0]["time"] == "0.50 ms for 8 samples, fp32 1.25 ms"
    assert rows[1]["time"] == "computes in fp32" and rows[1]["per_weight"] == ""
    assert rows[2]["per_weight"] == "4.26 bits a weight with scales"


def test_without_labels_there_is_no_knn(tmp_path: Path) -> None:
    write(tmp_path, "packed", "W2A32", 2_000_000, knn=None)
    section = exports_section(tmp_path)
    assert section is not None and not section["knn"] and section["how"].endswith("the features.")
    assert section["rows"][0]["size"] == "2.00 MB"


def test_a_run_without_exports_or_with_a_broken_one_has_no_section(tmp_path: Path) -> None:
    assert exports_section(tmp_path) is None
    (tmp_path / "exports" / "onnx-W8A8").mkdir(parents=True)
    (tmp_path / "exports" / "onnx-W8A8" / "verification.json").write_text("{")
    assert exports_section(tmp_path) is None
