"""Build the sdist and the wheel, install the wheel into a clean environment, and use it there.

    python scripts/check_package.py [FOLDER]

Nothing is downloaded: the environment sees the packages of the one that runs this, such as torch,
and none of its own but Mezzotint. The wheel is built from the unpacked sdist, as pip builds it. The
two files stay in FOLDER, if one is named.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta as b; print(b.build_{}(sys.argv[1]))"
USE = """
import mezzotint, sys
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import read_recipe
assert mezzotint.__file__.startswith(sys.prefix), mezzotint.__file__
print(len([read_recipe(name) for name in shipped()]), len(EmbeddedImages()))
"""
PAGES = ("docs/index.md", "docs/images/report.png", "tests/test_tree.py", "tests/cli/messages.yaml")
FILES = (
    *PAGES,
    "mkdocs.yml",
    "Makefile",
    ".ci/run",
    "constraints.txt",
    "scripts/check_package.py",
    "LICENSE",
)


def run(*command: str | Path, cwd: Path, path: str | None = None) -> str:
    """Run a command without the packages of the calling environment; fail with its output."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["PYTHONWARNINGS"] = "ignore"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=env | ({} if path is None else {"PATH": path}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _leftovers(folder: str, names: list[str]) -> set[str]:
    """Return what of a folder is no source."""
    made = shutil.ignore_patterns("*.egg-info", "__pycache__", ".git", ".*_cache", ".venv*")
    own = {"runs", "build", "dist", ".cache", ".hypothesis"} if Path(folder) == ROOT else set()
    return made(folder, names) | (own & set(names))


def build(folder: Path) -> tuple[Path, Path, Path]:
    """Return the sdist, the folder that it unpacks to, and the wheel built there."""
    tree = folder / "tree"
    # A copy, so that lists of files that earlier builds left behind take no part.
    shutil.copytree(ROOT, tree, ignore=_leftovers)
    name = run(sys.executable, "-c", BUILD.format("sdist"), folder, cwd=tree).splitlines()[-1]
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / name.removesuffix(".tar.gz")
    wheel = run(sys.executable, "-c", BUILD.format("wheel"), folder, cwd=unpacked).splitlines()[-1]
    return folder / name, unpacked, folder / wheel


def require_complete(unpacked: Path, wheel: Path) -> None:
    """Check that the sdist has docs and tests, and the wheel every file of the package."""
    missing = [name for name in FILES if not (unpacked / name).is_file()]
    own = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "mezzotint").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    missing += sorted(own - names)
    if missing:
        raise SystemExit(f"missing in the package: {', '.join(missing)}")
    for line in ("Project-URL: Source, ", "Keywords: ", "Classifier: ", "License-Expression: "):
        if f"\n{line}" not in text:
            raise SystemExit(f"the metadata have no line {line!r}")
    if "](docs/" in text:
        raise SystemExit("the index page has a relative link")


def use(folder: Path, wheel: Path, unpacked: Path) -> str:
    """Install the wheel into a new environment, and use it in a folder without the sources."""
    clean = folder / "clean"
    run(sys.executable, "-m", "venv", "--without-pip", clean, cwd=folder)
    python = clean / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-qq")
    run(*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel, cwd=folder)
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    # A line of a .pth file adds a folder, and does not run the .pth files in it: an editable
    # installation of Mezzotint in it takes no part.
    others = sysconfig.get_path("purelib")
    (Path(site) / "others.pth").write_text(f"{others}\n", encoding="utf-8")
    away = folder / "away"
    away.mkdir()
    counts = run(python, "-c", USE, cwd=away).strip()
    verb = run(clean / "bin" / "mezzotint", "--version", cwd=away).strip()
    tests = ("tests/docs/test_readme.py", "tests/test_files.py", "-k", "not browser")
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=unpacked)
    recipes, images = counts.split()
    return f"mezzotint {verb}: {recipes} recipes, {images} embedded images"


def main(target: Path | None = None) -> None:
    """Build, check and use the package."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sdist, unpacked, wheel = build(folder)
        require_complete(unpacked, wheel)
        found = use(folder, wheel, unpacked)
        if target is not None:
            for file in (sdist, wheel):
                shutil.copy2(file, target)
        sizes = ", ".join(
            f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in (sdist, wheel)
        )
        print(f"package: {sizes}; installed and used: {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
