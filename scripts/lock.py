"""Write requirements.lock: every version of constraints.txt with the hash of its file.

    python scripts/lock.py

Run it after constraints.txt changed, on Linux with Python 3.11: pip chooses the files, installs
nothing, and reports their hashes.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_HEAD = """\
# Every version of constraints.txt with the hash of its wheel, for Linux on x86-64 and Python 3.11.
# `make locked` installs exactly these files; `python scripts/lock.py` writes this file.
"""


def lock(pins: str, report: dict[str, Any]) -> str:
    """Write the lock of pinned versions, from the report of pip.

    Raises:
        KeyError: for a version that the report does not have.
    """
    hashes = {
        (_name(one["metadata"]["name"]), one["metadata"]["version"]): one["download_info"][
            "archive_info"
        ]["hashes"]["sha256"]
        for one in report["install"]
    }
    found = re.findall(r"^(\S+)==(\S+)$", pins, re.M)
    lines = (f"{n}=={v} \\\n    --hash=sha256:{hashes[_name(n), v]}\n" for n, v in found)
    return _HEAD + "".join(lines)


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def main() -> None:
    """Ask pip for the files of all pinned versions, and write the lock."""
    pins = ROOT / "constraints.txt"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--no-deps", "--quiet", "--report", str(report), "-r", str(pins)]
        subprocess.run(command, check=True)
        content = json.loads(report.read_text(encoding="utf-8"))
    text = lock(pins.read_text(encoding="utf-8"), content)
    (ROOT / "requirements.lock").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
