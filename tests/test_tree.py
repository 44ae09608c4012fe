"""The structure of the package: imports go one way, files stay short, modules have tests."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "src" / "mezzotint"
ORDER = [
    "_version", "_lazy", "files", "dist", "seeding", "timing", "memory", "workers", "modality",
    "types", "recipe", "optim", "quant", "codebooks", "augment", "data", "encoders", "methods",
    "interop", "evaluation", "train", "runs", "detection", "export", "report", "cli", "__main__",
]  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("src", "tests", "benchmarks", "scripts")
PYTHON = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
PRAGMAS = ("# type: ignore", "# noqa", "http")
NAMED = re.compile(r"mezzotint\.(\w+)(?:\.\w+)*")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def type_checking(tree: ast.Module) -> set[int]:
    """Ids of the nodes that only a type checker follows."""
    blocks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    ]
    return {id(inner) for block in blocks for inner in ast.walk(block)}


def imports_of(path: Path) -> set[str]:
    """Parts of the package that a file imports at run time: at any depth, and by a string too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = type_checking(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mezzotint"):
            module = (node.module or "").split(".")
            found |= {module[1]} if len(module) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mezzotint.")}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            for text in ast.walk(node):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found |= set(NAMED.findall(text.value))
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_above_its_own_package(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    below = {name for name in imports_of(path) if ORDER.index(name) > ORDER.index(own)}
    assert not below, f"{own} imports {below}"


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its signature and docstring, which are a schema."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_functions_and_lines_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= (300 if name_of(path) == "train/loop.py" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert body_lines(node) <= 60, node.name
            if node.name == "__init__":
                assert len(node.args.kwonlyargs) <= 10, node.lineno


def test_no_line_is_longer_than_a_hundred_characters() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in PYTHON
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100 and not any(pragma in line for pragma in PRAGMAS)
    }
    assert not long


def test_no_room_without_a_purpose() -> None:
    assert not {"utils.py", "common.py", "helpers.py", "misc.py"} & {p.name for p in FILES}


def test_the_house_stays_small() -> None:
    """A stranger finds a thing in two steps only while each room holds few names."""
    modules = [path for path in FILES if path.name != "__init__.py"]
    assert len(modules) <= 317
    for room, most in (("data", 22), ("augment", 16)):
        names = {p.name for p in (PACKAGE / room).iterdir() if not p.name.startswith("_")}
        assert len(names) <= most, names


def test_most_modules_have_a_test_file_of_their_name() -> None:
    modules = [path for path in FILES if not path.name.startswith("__")]
    tests = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("*.py")}
    missing = [
        name
        for name in map(name_of, modules)
        if f"{name.rpartition('/')[0]}/test_{name.rpartition('/')[2]}".lstrip("/") not in tests
    ]
    assert len(missing) <= 0.2 * len(modules), missing


def test_docstrings_say_something() -> None:
    """A docstring of one to three words repeats the name: useful, or none."""
    short = [
        f"{name_of(path)}:{getattr(node, 'lineno', 1)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))
        and len((ast.get_docstring(node) or "long enough to say something").split()) <= 3
    ]
    assert not short


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
sys.addaudithook(
    lambda e, a: seen.append(e) if e.split(".")[0] in watched or e == "os.system" else None
)
import mezzotint
print(seen, "torch" in sys.modules)
"""
    assert run(code).strip() == "[] False"


@pytest.mark.parametrize("folder", ["benchmarks", "scripts"])
def test_scripts_import_what_there_is(folder: str) -> None:
    """Names that scripts import from the package, and from each other; they are not run here."""
    own = {file.stem: ast.parse(file.read_text("utf-8")) for file in (ROOT / folder).glob("*.py")}
    missing = []
    for script, tree in own.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom):
                continue
            module, names = str(node.module), [alias.name for alias in node.names]
            if module in own:
                there = _defined(own[module])
            elif module.startswith("mezzotint"):
                there = _defined(ast.parse(_file_of(module).read_text("utf-8")))
                if _file_of(module).name == "__init__.py":  # submodules, and names that are lazy
                    there |= {name for name in names if _file_of(f"{module}.{name}").is_file()}
                    there |= {name for name in names if hasattr(import_module(module), name)}
            else:
                continue
            missing += [f"{script}: {module}.{name}" for name in names if name not in there]
    assert not missing


def _file_of(module: str) -> Path:
    """The file of a module of the package."""
    path = ROOT / "src" / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module defines or imports, at any depth of its statements."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {(alias.asname or alias.name) for alias in node.names}
    return found
