"""The machine that numbers were measured on: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgedeploy.core.installed import installed_version

RUNTIMES = ("edgedeploy", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe_machine() -> dict[str, str]:
    """Processor, cores, governor, memory, GPU, system and versions of the runtimes; "unknown" where not told.

    Reads files only: no SDK is imported and no program is run.
    """
    info = _read(Path("/proc/cpuinfo"))
    flags = set((_field(info, "flags") or _field(info, "Features")).split())
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    machine = {
        "board": _read(Path("/proc/device-tree/model")).strip("\0\n"),
        "cpu": processor(),
        "cpu features": " ".join(name for name in FEATURES if name in flags),
        "cores usable": str(_usable_cores()),
        "governor": _read(GOVERNOR).strip() or "unknown",
        "memory": f"{int(memory[1]) * 1024 / 1e9:.1f} GB" if memory else "unknown",
        "gpu": ", ".join(_gpus()) or "none",
        "load before": load,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: found for name in RUNTIMES if (found := installed_version(name))},
    }
    return {name: value for name, value in machine.items() if value}


def processor() -> str:
    """Name of the CPU."""
    info = _read(Path("/proc/cpuinfo"))
    return _field(info, "model name") or platform.processor() or platform.machine() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [_field(_read(file), "Model") for file in files]


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
