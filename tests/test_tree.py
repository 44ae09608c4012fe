"""The structure that DESIGN promises: imports go one way, and nothing happens on import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "src" / "mezzotint"
ORDER = [
    "_version", "files", "dist", "seeding", "timing", "types", "recipe", "optim", "quant", "codebooks", "augment",
    "data", "encoders", "methods", "interop", "evaluation", "train", "runs", "detection", "export", "report", "cli",
    "__main__",
]  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Parts of the package that a file imports at run time, at any depth; type-checking blocks do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    ]
    hidden = {id(inner) for block in skipped for inner in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mezzotint"):
            module = (node.module or "").split(".")
            found |= {module[1]} if len(module) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mezzotint.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_from_above_its_own_package(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    below = {name for name in imports_of(path) if ORDER.index(name) > ORDER.index(own)}
    assert not below, f"{own} imports {below}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
            if node.name == "__init__":
                assert len(node.args.kwonlyargs) <= 10, node.lineno


def test_no_room_without_a_purpose() -> None:
    assert not {"utils.py", "common.py", "helpers.py", "misc.py"} & {p.name for p in FILES}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_opens_no_socket_and_starts_no_process() -> None:
    code = """
import sys
seen = []
watched = ("socket", "subprocess")
sys.addaudithook(lambda e, a: seen.append(e) if e.split(".")[0] in watched or e == "os.system" else None)
import mezzotint
print(seen, "torch" in sys.modules)
"""
    assert run(code).strip() == "[] False"


def test_public_names_are_there() -> None:
    names = "randomized_quantize, RandomizedQuantization, Recipe, pretrain, evaluate, load_encoder, save_encoder"
    assert (
        run(
            f"from mezzotint import {names}; import mezzotint; print(set(dir(mezzotint)) >= set('{names}'.split(', ')))"
        ).strip()
        == "True"
    )


def test_evaluate_is_a_function_before_and_after_its_package_is_imported() -> None:
    code = "import mezzotint, mezzotint.evaluation.knn\n"
    code += "try: mezzotint.evaluate('nowhere')\nexcept ValueError as e: print(e)"
    assert "nowhere" in run(code) and "encoder.json" in run(code)
    code = (
        "from mezzotint import evaluate\ntry: evaluate('nowhere')\nexcept ValueError as e: print(e)"
    )
    assert "encoder.json" in run(code)
