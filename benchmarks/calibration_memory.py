"""Memory and time of INT8 calibration (entropy): `python -m benchmarks.calibration_memory`.

DDRNet-23-slim at 384x768 on images of CamVid, beside ONNX Runtime's quantize_static. Every row is a process
of its own; memory is its peak (getrusage). Time is a ratio to plain fp32 inference of the same images in
ONNX Runtime, image by image in turn, both decoding them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.latency import build

COUNTS = (8, 64, 256)
PEER_COUNTS = (8, 16, 32)  # gigabytes beyond that


def measure(row: str, model: Path, data: Path, count: int, mem: int = 512) -> dict[str, Any]:
    """The row as measured in a fresh process; raises where that fails."""
    request = {"row": row, "model": str(model), "data": str(data), "count": count, "mem": mem}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.calibration_worker", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row} on {count} images failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid/train"), help="image folder")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--peer-counts", type=int, nargs="*", default=PEER_COUNTS)
    parser.add_argument("--time-counts", type=int, nargs="*", default=(64,))
    parser.add_argument("--mem", type=int, nargs="*", default=(256, 192), help="smaller budgets in MB")
    parser.add_argument("--out", type=Path, default=Path("out/calibration"), help="folder for the model")
    arguments = parser.parse_args()
    model = build("ddrnet_23_slim", (384, 768), "fp32", arguments.out, until="optimize").path
    print("| calibration | images | budget MB | passes | peak MB | of it before | seconds |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    budgets = [(count, 512) for count in arguments.counts]
    budgets += [(min(arguments.counts, default=8), mem) for mem in arguments.mem]
    for count, mem in budgets:
        row = measure("ours", model, arguments.data, count, mem)
        _print("edgedeploy", count, mem, row["passes"], row)
    for count in arguments.counts:
        row = measure("ours, corrected", model, arguments.data, count)
        _print("edgedeploy, weights corrected", count, 512, row["passes"], row)
    for count in arguments.peer_counts:
        row = measure("theirs", model, arguments.data, count)
        _print("ONNX Runtime quantize_static", count, "", "", row)
    for count in arguments.time_counts:
        row = measure("beside inference", model, arguments.data, count)
        print(
            f"\n{count} images: collecting and ranges {row['seconds']:.1f} s, plain inference "
            f"{row['plain_seconds']:.1f} s, ratio {row['ratio']:.2f}, "
            f"of processor time {row['processor_ratio']:.2f}",
            flush=True,
        )


def _print(name: str, count: int, mem: object, passes: object, row: dict[str, Any]) -> None:
    figures = f"{row['peak_mb']:.0f} | {row['before_mb']:.0f} | {row['seconds']:.1f}"
    print(f"| {name} | {count} | {mem} | {passes} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
