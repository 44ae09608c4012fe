"""The check of the package finds what is missing, and the index page has absolute links."""

import runpy
import shutil
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "check_package.py"))
FILES, require_complete = SCRIPT["FILES"], SCRIPT["require_complete"]
METADATA = "\n".join(
    ["", "Project-URL: Source, x", "Keywords: a", "Classifier: b", "License-Expression: c", ""]
)


def made(folder: Path, metadata: str = METADATA) -> tuple[Path, Path]:
    """An unpacked sdist and a wheel with everything that they need."""
    for name in FILES:
        (folder / "sdist" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "sdist" / name).touch()
    with zipfile.ZipFile(folder / "a.whl", "w") as archive:
        archive.writestr("mezzotint-0.dist-info/METADATA", metadata)
        for path in (ROOT / "src" / "mezzotint").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.writestr(path.relative_to(ROOT / "src").as_posix(), "")
    return folder / "sdist", folder / "a.whl"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    sdist, wheel = made(tmp_path)
    require_complete(sdist, wheel)
    (sdist / "docs" / "index.md").unlink()
    with pytest.raises(SystemExit, match="missing in the package: docs/index.md"):
        require_complete(sdist, wheel)
    shutil.rmtree(sdist)
    for metadata, message in (
        (METADATA.replace("Keywords", "Words"), "have no line 'Keywords: '"),
        (METADATA + "see [here](docs/index.md)", "has a relative link"),
    ):
        with pytest.raises(SystemExit, match=message):
            require_complete(*made(tmp_path, metadata))
    with zipfile.ZipFile(tmp_path / "b.whl", "w") as archive:
        archive.writestr("mezzotint-0.dist-info/METADATA", METADATA)
    with pytest.raises(SystemExit, match="missing in the package: mezzotint/__init__.py, "):
        require_complete(made(tmp_path)[0], tmp_path / "b.whl")


def test_links_of_the_index_page_are_absolute() -> None:
    pytest.importorskip("setuptools")
    index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    text = "[docs](docs/a.md#b) ![p](docs/images/r.png) [x](https://a.b/c) [top](#top)"
    assert index_page(text, "https://host/us/it") == (
        "[docs](https://host/us/it/blob/main/docs/a.md#b) "
        "![p](https://host/us/it/raw/main/docs/images/r.png) [x](https://a.b/c) [top](#top)"
    )
    page = index_page((ROOT / "README.md").read_text(encoding="utf-8"), "https://host/us/it")
    assert "](docs/" not in page and "](https://host/us/it/raw/main/docs/images/" in page
