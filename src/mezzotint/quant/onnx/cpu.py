"""What the processor can do with 8-bit integers.

x86 without VNNI or AMX multiplies unsigned by signed bytes with `vpmaddubsw`, which adds pairs of products in 16 bits
and *saturates*: 2 · 255 · 127 = 64,770 is above 32,767, so large activations times large weights come out wrong and
nothing says so. With weights of 7 bits the sum is at most 2 · 255 · 63 = 32,130, which fits. That is `reduce_range`,
and it is needed exactly where those instructions are missing.
"""

import platform
from pathlib import Path

_EXACT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""Instructions that add products of bytes in 32 bits, by the kernel's names: x86, then ARM."""


def flags() -> list[str]:
    """Which of those instructions this processor has; none where the system does not say."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ["asimddp"]  # every Apple processor of 64 bits that runs a current Python
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return sorted(_EXACT.intersection(line.partition(":")[2].split()))


def saturates(found: list[str] | None = None) -> bool:
    """Whether sums of 8-bit products may saturate, so that weights should keep to 7 bits.

    Args:
        found: instructions as `flags` names them; by default those of this processor.
    """
    return not _EXACT.intersection(flags() if found is None else found)
