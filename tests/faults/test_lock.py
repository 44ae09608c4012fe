"""The lock of tested packages: each version with the hash of its file."""

import re

from tests import ROOT


def test_every_tested_version_is_locked_by_hash() -> None:
    """`pip install --require-hashes` refuses a file that is not the one that was tested."""
    pins = re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", lock, re.M)
    assert len(pins) > 100, "python scripts/lock.py writes the lock again"
    assert [(name, version) for name, version, _ in locked] == pins
    assert len({digest for *_, digest in locked}) == len(pins)
    rest = re.sub(r"^#.*\n", "", lock, flags=re.M)
    assert rest.count("\n") == 2 * len(pins), "nothing is installed without a hash"
