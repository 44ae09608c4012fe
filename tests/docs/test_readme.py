"""The Python examples of README are real, and the commands of all documents are parsed."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from mezzotint.cli import app
from mezzotint.detection.recipes import shipped_transfers
from mezzotint.encoders.resnet import resnet8
from mezzotint.recipe.reading import shipped
from mezzotint.runs.study import shipped_studies
from mezzotint.types import Input
from tests import ROOT

DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))


def commands(path: Path) -> Iterator[list[str]]:
    """Command lines of `mezzotint` in the blocks of a document, without variables of a shell."""
    for block in re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\$ )?mezzotint (\S.*)", line)
            if found is not None and not re.search(r"[$…<]", found[1]):
                yield shlex.split(found[1], comments=True)


def test_the_randomized_quantization_example_runs() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )
    scope: dict[str, object] = {}
    exec(next(block for block in blocks if "randomized_quantize" in block), scope)
    view = scope["view"]
    assert isinstance(view, torch.Tensor) and view.shape == (8, 3, 32, 32)
    assert all(len(row.unique()) <= 8 for row in view.flatten(0, 1))


def test_the_few_bits_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )
    encoder = resnet8(Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3), stem="small", width=8).eval()
    x = torch.randn(4, 3, 16, 16)
    exact = encoder(x)
    scope: dict[str, Any] = {"encoder": encoder, "x": x}
    exec(next(block for block in blocks if "quant.bits" in block), scope)
    assert not torch.equal(scope["features"], exact) and scope["features"].requires_grad
    assert torch.equal(encoder(x), exact)
    assert "weights" in capsys.readouterr().out


def test_commands_of_the_documents_are_parsed_and_name_what_there_is() -> None:
    group: Any = typer.main.get_command(app)
    known = {*shipped(), *shipped_transfers(), *shipped_studies()}
    folders = {name.partition("/")[0] for name in shipped()}
    parsed, wrong = 0, []
    for path in DOCUMENTS:
        for verb, *rest in commands(path):
            if verb.startswith("--"):
                continue
            try:
                assert group.commands[verb].make_context(verb, [*rest]).params
            except Exception as error:
                wrong.append(f"{path.name}: {verb} {' '.join(rest)}: {error!r}")
            parsed += 1
            words = [w for w in rest if re.fullmatch(r"\w+/[\w-]+", w)]
            named = [w for w in words if w.partition("/")[0] in folders]
            wrong += [f"{path.name}: there is no recipe {w}" for w in named if w not in known]
    assert parsed > 150 and not wrong, "\n".join(wrong)


def test_the_page_on_installing_lists_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "docs/start/install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.M)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == project["optional-dependencies"].keys() - {"dev", "docs", "bench"}
