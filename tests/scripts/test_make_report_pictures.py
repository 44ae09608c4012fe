"""The pictures of the docs are parts of a page, in light, dark and on a phone."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.report.render import render, write_page
from tests import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_report_pictures", ROOT / "scripts" / "make_report_pictures.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def driver(script: ModuleType) -> Iterator[Any]:
    pytest.importorskip("selenium")
    if not shutil.which("chromedriver") or not any(map(shutil.which, script.CHROMIUM)):
        pytest.skip("no chromium and chromedriver on PATH")
    with script.browser() as started:
        yield started


def test_shots_have_the_size_and_the_scheme_that_was_asked(
    script: ModuleType, driver: Any, tmp_path: Path
) -> None:
    reproduce = {"cost": [("time", "3 s")] * 40, "unreadable": [], "environment": []}
    page = write_page(
        tmp_path / "page.html",
        render(title="a run", reproduce={**reproduce, "command": "make demo", "recipe": ""}),
    )
    shots = [
        script.Shot("top.png", height=300),
        script.Shot("dark.png", height=300, dark=True),
        script.Shot("phone.png", width=390, height=200, scale=1.5),
        script.Shot("part.webp", first="#reproduce"),
        script.Shot("missing.png", first="#bits", last="#exports"),
    ]
    written = script.take(driver, page, shots, tmp_path)
    assert [path.name for path in written] == ["top.png", "dark.png", "phone.png", "part.webp"]
    top, dark, phone, part = (Image.open(path).convert("L") for path in written)
    assert top.size == dark.size == (1120, 300) and phone.size == (585, 300)
    assert part.width == 1120 and part.height > 800  # all of the section, below the window too
    assert np.asarray(dark).mean() < 60 < 200 < np.asarray(top).mean()


def test_what_is_missing_is_one_sentence(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"report\.html` does not exist. Run `mezzotint report"):
        script.main([str(tmp_path)])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="need Selenium, Chromium and chromedriver"):
        script.browser().__enter__()
