"""What this CPU can do: the features that decide how fast, and how exactly, it computes INT8.

Features have the names of Linux's /proc/cpuinfo. No SDK is imported to read them.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import lru_cache
from pathlib import Path

# Names this machine's class of CPU, for a fleet whose weakest machine is weaker than this one.
OVERRIDE = "EDGEDEPLOY_CPU"
FEATURES = (
    "sse4_1", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16",
)  # fmt: skip
_MAC = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
}
# IsProcessorFeaturePresent: PF_SSE4_1, PF_AVX2, PF_AVX512F, PF_ARM_V82_DP.
_WINDOWS = {37: "sse4_1", 40: "avx2", 41: "avx512f", 43: "asimddp"}
_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def architecture() -> str:
    """Instruction set of this machine, as Linux calls it: "x86_64", "aarch64"."""
    name = platform.machine().lower()
    return _ARCHITECTURES.get(name, name)


@lru_cache(maxsize=1)
def cpu_features() -> frozenset[str]:
    """Those of FEATURES that this CPU has; read once.

    Windows does not tell of VNNI and bfloat16: such a CPU counts as one without.
    """
    if sys.platform == "darwin":
        found = _mac()
    elif sys.platform == "win32":
        found = _windows()
    else:
        text = read_text(Path("/proc/cpuinfo"))
        found = set((field(text, "flags") or field(text, "Features")).split())
    return frozenset(FEATURES) & found


def processor() -> str:
    """Name of the CPU."""
    info = read_text(Path("/proc/cpuinfo"))
    return field(info, "model name") or platform.processor() or platform.machine() or "unknown"


def claimed_class() -> str:
    """The class of CPU that the environment claims for this machine; "" where it claims none."""
    return os.environ.get(OVERRIDE, "").strip()


def field(text: str, name: str) -> str:
    """The first value of a line `name : value`; "" where there is none."""
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def read_text(path: Path) -> str:
    """A file's text; "" where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _mac() -> set[str]:
    import ctypes

    system = ctypes.CDLL(None)
    found = {"sse4_1"} if architecture() == "x86_64" else set[str]()
    for name, feature in _MAC.items():
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        error = system.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
        if not error and value.value:
            found.add(feature)
    return found


def _windows() -> set[str]:
    import ctypes

    present = getattr(ctypes, "windll").kernel32.IsProcessorFeaturePresent  # noqa: B009  not on other systems
    return {feature for number, feature in _WINDOWS.items() if present(number)}
