"""The Python examples of README and docs/runs.md are real."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def test_the_randomized_quantization_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    scope: dict[str, object] = {}
    exec(next(block for block in blocks if "randomized_quantize" in block), scope)
    view = scope["view"]
    assert isinstance(view, torch.Tensor) and view.shape == (8, 3, 32, 32)
    assert all(len(row.unique()) <= 8 for row in view.flatten(0, 1))


def test_links_of_the_documents_point_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
