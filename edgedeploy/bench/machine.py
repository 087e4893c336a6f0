"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from edgedeploy.core.cpu import FEATURES, cpu_features, field, processor, read_text
from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.core.installed import installed_version
from edgedeploy.core.target import THIS_CPU, load_target

RUNTIMES = ("edgedeploy", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe_machine() -> dict[str, str]:
    """Processor, cores, governor, memory, GPU, system and versions of the runtimes, or "unknown".

    Reads files only: imports no SDK and runs no program.
    """
    memory = re.search(r"MemTotal:\s+(\d+) kB", read_text(Path("/proc/meminfo")))
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    machine = {
        "board": read_text(Path("/proc/device-tree/model")).strip("\0\n"),
        "cpu": processor(),
        "cpu class": cpu_class(),
        "cpu features": " ".join(name for name in FEATURES if name in cpu_features()),
        "cores usable": str(cores),
        "governor": read_text(GOVERNOR).strip() or "unknown",
        "memory": f"{int(memory[1]) * 1024 / 1e9:.1f} GB" if memory else "unknown",
        "gpu": ", ".join(field(read_text(file), "Model") for file in gpus) or "none",
        "load before": load,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version for name in RUNTIMES if (version := installed_version(name))},
    }
    return {name: value for name, value in machine.items() if value}


def cpu_class() -> str:
    """Class of this machine's CPU, as in targets/*.toml; "" if unknown."""
    try:
        return load_target(THIS_CPU).cpu_class
    except EdgeDeployError:
        return ""
