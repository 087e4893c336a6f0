"""INT8 against ONNX Runtime fp32 on this CPU, one interleaved run a model: `python -m benchmarks.latency`.

Calibrated on a real clip. DDRNet runs with random weights where none are bundled: good for time, not more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.clips import clip
from edgedeploy.bench import bench
from edgedeploy.cli.console import Reporter
from edgedeploy.core.cache import Cache
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import deliver, run
from edgedeploy.steps.base import Job

MODELS = {"espcn_x3": (360, 640), "ddrnet_23_slim": (384, 768)}


def build(model: str, size: tuple[int, int], precision: str, folder: Path, until: str = "build") -> Artifact:
    """The model at a fixed size, lowered to a precision and built for the CPU."""
    edits = [f"precision={precision}", f"capture.height={size[0]}", f"capture.width={size[1]}"]
    job = Job(model, Recipe().edited(edits), load_target("cpu"), data=clip("bigbuckbunny"))
    artifact = run(job, Reporter(), Cache(), until)
    return deliver(artifact, folder / f"{model}.{precision}.{until}.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="of each interleaved run")
    parser.add_argument("--out", type=Path, default=Path("out/latency"), help="folder for models and reports")
    arguments = parser.parse_args()
    for model, size in MODELS.items():
        plain = build(model, size, "fp32", arguments.out, until="optimise")
        contestants = [f"{plain.path}@onnxruntime", f"{plain.path}@openvino"]
        contestants += [str(build(model, size, p, arguments.out).path) for p in ("bf16", "int8")]
        report = bench(contestants, threads=arguments.threads, seconds=arguments.seconds)
        report.write(arguments.out / f"{model}.json")
        print(f"\n{model} at {size[0]}x{size[1]}\n")
        print(report.to_markdown())
        base, int8 = report.results[0], report.results[-1]
        print(f"int8 takes {int8.p50_ms / base.p50_ms:.3f} x the time of ONNX Runtime fp32\n")


if __name__ == "__main__":
    main()
