"""Which processors need weights of 7 bits."""

from pathlib import Path

import pytest

from mezzotint.quant.onnx import qdq as cpu


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        ([], True),
        (["avx512_vnni"], False),
        (["avx_vnni"], False),
        (["amx_int8"], False),
        (["asimddp"], False),
    ],
)
def test_only_processors_without_exact_sums_saturate(found: list[str], needed: bool) -> None:
    assert cpu.saturates(found) is needed


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("flags\t\t: fpu avx avx2 fma", []),
        ("flags\t\t: fpu avx2 avx512_vnni amx_int8", ["amx_int8", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp", ["asimddp"]),
        ("processor\t: 0", []),
    ],
)
def test_flags_are_read_from_the_kernel(
    line: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: f"processor\t: 0\n{line}\n")
    assert cpu.flags() == wanted


def test_no_flags_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: object, encoding: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu.flags() == [] and cpu.saturates()
