"""Nothing outside `modality/` decides by a modality's name: it asks the modality."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mezzotint.modality.modality import modality_names
from tests import ROOT

PACKAGE = ROOT / "src" / "mezzotint"
NAMES = {*modality_names()}


def owned(path: Path) -> bool:
    """Whether a file is in `modality/`, or in a folder or file that one modality owns."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] == "modality" or (parts[0] in ("data", "augment") and parts[1] in NAMES)


def names_in(node: ast.AST) -> set[str]:
    constants = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return NAMES & {value for value in constants if isinstance(value, str)}


def states(node: ast.AST) -> bool:
    """Whether a component says here which modalities it takes."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "modalities"


def branches(text: str) -> Iterator[int]:
    """Lines that compare with a modality's name, choose by one, or are a table of several."""
    tree = ast.parse(text)
    stated = {id(inner) for node in ast.walk(tree) if states(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in stated:
            continue
        if isinstance(node, ast.Compare) and names_in(node):
            yield node.lineno
        elif isinstance(node, ast.MatchValue) and names_in(node):
            yield node.lineno
        elif isinstance(node, ast.Dict):
            if len(NAMES & {k.value for k in node.keys if isinstance(k, ast.Constant)}) > 1:
                yield node.lineno
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            direct = {e.value for e in node.elts if isinstance(e, ast.Constant)}
            if len(NAMES & direct) > 1:
                yield node.lineno
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice).endswith("modality"):
            yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "get" and any(
                ast.unparse(argument).endswith("modality") for argument in node.args
            ):
                yield node.lineno


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if not owned(path)],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_no_file_decides_by_the_name_of_a_modality(path: Path) -> None:
    lines = [*branches(path.read_text(encoding="utf-8"))]
    assert not lines, f"{path.name} decides by a modality's name in lines {lines}: ask modality_of"


@pytest.mark.parametrize(
    "text",
    [
        "if x.modality == 'audio': pass",
        "y = m in ('tokens', 'image_text')",
        "SIDES = {'image': 16, 'audio': 8}",
        "match m:\n    case 'video': pass",
        "y = TABLE[input.modality]",
        "y = TABLE.get(saved.modality, 1)",
        "DRAWABLE = ('image', 'audio')",
    ],
)
def test_a_branch_is_found(text: str) -> None:
    assert [*branches(text)]
