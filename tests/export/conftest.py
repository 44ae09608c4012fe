"""Fixtures of the export tests."""

from pathlib import Path

import pytest

from tests.untrained_run import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("export") / "run"
    return make_run(folder, {"kind": "resnet8", "stem": "small", "width": 8})
