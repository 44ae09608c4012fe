"""Layers at low bits: what each loses when it alone is quantized, and the shape of its weights and inputs."""

import json
from pathlib import Path
from typing import Any

from mezzotint.report.plots import number


def layers_section(folder: Path) -> dict[str, Any] | None:
    """What the template needs of `layers.json`: `how` in words and the cells of both tables; `None` without it."""
    path = folder / "layers.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    largest = max((row["error"] for row in found["sensitivity"]), default=0.0)
    return {
        "how": f"Each layer quantized alone to {found['bits']} (weights/activations), all others in float: squared "
        "error of the features over their variance, and mean cosine to the float features.",
        "sensitivity": [
            {
                "name": row["name"],
                "what": row["what"],
                "error": number(row["error"]),
                "cosine": f"{row['cosine']:.5f}",
                "share": round(row["error"] / largest, 3) if largest else 0.0,
            }
            for row in found["sensitivity"]
        ],
        "distributions": [
            {
                "name": row["name"],
                "what": "weight" if row["what"] == "weight" else "input",
                "kurtosis": f"{row['kurtosis']:.1f}",
                "peak": f"{row['peak']:.1f}",
                "outliers": f"{100 * row['outliers']:.2f} %",
                "channels": f"{row['channel_ratio']:.1f}",
            }
            for row in found["distributions"]
        ],
    }
