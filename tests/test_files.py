import json
import os
from pathlib import Path

import pytest

from mezzotint.files import replacing, write_json


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == [
        "a.json"
    ]


def test_names_that_are_not_text_survive_and_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"bad\udc80name": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"bad\udc80name": "ü"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == {"bad\udc80name": "ü"}


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    """Some writers make private files: another user of the machine could not load the encoder."""
    with replacing(tmp_path / "x.bin") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode
