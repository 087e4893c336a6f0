"""Peak memory of work in this process, in MB (1e6 bytes)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # Linux, proc(5): resets the peak resident set size to the current one


class PeakMemory:
    """Rise of resident memory in MB over its value at the start of the `with` block; None if unknown.

    The rise is a lower bound: the allocator reuses freed memory. If the kernel cannot reset the peak, only a
    rise above the process's earlier peak counts.
    """

    def __init__(self) -> None:
        self.rise_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        try:
            CLEAR.write_text(_RESET_PEAK)
            self._before = _status_mb("VmRSS")
        except OSError:
            self._before = peak_mb()
        return self

    def __exit__(self, *_: object) -> None:
        after = peak_mb()
        if after is not None and self._before is not None:
            self.rise_mb = max(0.0, after - self._before)


def peak_mb() -> float | None:
    """Peak resident memory of this process in MB; None if unknown."""
    from_proc = _status_mb("VmHWM")
    if from_proc is not None:
        return from_proc
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status_mb(field: str) -> float | None:
    try:
        match = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 / 1e6 if match else None
