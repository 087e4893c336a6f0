"""INT8 beside float and NNCF on this CPU, one interleaved run a model: `python -m benchmarks.latency`.

    python -m venv peers && peers/bin/pip install nncf==3.4.0 openvino==2026.4.1
    python -m benchmarks.latency --nncf peers/bin/python

Calibrated on a real clip; a network without bundled weights runs with random ones: good for time, not more.
The floor is the network's multiplications at the best rate of this CPU's INT8 kernels (kernel_rate.py): no
placement gets below it. Of NNCF's presets the better one counts, with OpenVINO's own choice of precision
between its layers.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from benchmarks.clips import clip
from benchmarks.kernel_rate import best_rate
from edgedeploy.backend import OpenOptions, Session, concrete_shapes
from edgedeploy.backends.openvino import OpenVinoSession, _core
from edgedeploy.bench import Rounds, time_interleaved
from edgedeploy.calibration import calibration_feeds
from edgedeploy.cli.console import Reporter
from edgedeploy.core.cache import Cache
from edgedeploy.core.cpu import processor
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.export.counts import count_model
from edgedeploy.pipeline import deliver, run
from edgedeploy.runtime.feeds import random_feeds
from edgedeploy.runtime.select import open_artifact
from edgedeploy.task import task_for

MODELS = {
    "espcn_x3": (360, 640),
    "ddrnet_23_slim": (384, 768),
    "dbnet_mobilenetv3_large": (640, 640),
    "tvconv_face_x0_1": (96, 96),
    "slab_deit_tiny": (224, 224),
}
IMAGES = 16
PRESETS = ("mixed", "performance")


def build(model: str, size: tuple[int, int], precision: str, folder: Path, until: str = "build") -> Artifact:
    """The model at a fixed size, lowered to a precision and built for the CPU."""
    edits = [f"precision={precision}", f"capture.height={size[0]}", f"capture.width={size[1]}"]
    edits += [f"calibration.limit={IMAGES}"]
    job = Job(model, Recipe().edited(edits), load_target("cpu"), data=clip("bigbuckbunny"))
    artifact = run(job, Reporter(), Cache(), until)
    return deliver(artifact, folder / f"{model}.{precision}.{until}.onnx")


def by_nncf(plain: Artifact, python: str, threads: int) -> dict[str, Session]:
    """NNCF's presets of a folded float32 file, on the same calibration images, as OpenVINO opens them."""
    feeds = list(calibration_feeds(clip("bigbuckbunny"), task_for(plain).preprocess, IMAGES))
    rows = plain.path.with_suffix(".feeds.npz")
    np.savez(rows, np.concatenate([feed[plain.inputs[0].name] for feed in feeds]))
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    sessions: dict[str, Session] = {}
    for preset in PRESETS:
        out = plain.path.with_suffix(f".nncf-{preset}.xml")
        script = Path(__file__).with_name("nncf_worker.py")
        command = [python, script, plain.path, rows, out, preset]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        request = _core().compile_model(out, "CPU", config).create_infer_request()
        sessions[f"NNCF {preset}"] = OpenVinoSession(plain.inputs, plain.outputs, request, profile=False)
    return sessions


def kernel_share(artifact: Artifact, threads: int) -> str:
    """Which kinds of kernel an artifact's time goes to, largest first."""
    feeds = random_feeds(artifact, concrete_shapes(artifact, {}))
    times: Counter[str] = Counter()
    with open_artifact(artifact, OpenOptions(threads=threads, profile=True)) as session:
        for _ in range(30):
            session(feeds)
            for entry in session.layers():
                times[entry.kind] += entry.milliseconds
    total = sum(times.values())
    return ", ".join(f"{kind} {value / total:.0%}" for kind, value in times.most_common(5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30, help="of each interleaved run")
    parser.add_argument("--nncf", metavar="PYTHON", help="interpreter with NNCF and OpenVINO")
    parser.add_argument("--out", type=Path, default=Path("out/latency"), help="folder for models")
    arguments = parser.parse_args()
    print(f"{processor()}, class {load_target('cpu').cpu_class}")
    rate = best_rate(arguments.threads)
    print(f"INT8 kernels at their best: {rate / 1e9:.0f} thousand million multiply-accumulates a second\n")
    for model in arguments.models:
        size = MODELS[model]
        plain = build(model, size, "fp32", arguments.out, until="optimize")
        int8 = build(model, size, "int8", arguments.out)
        floor = 1e3 * (count_model(onnx.load(plain.path)).macs or 0) / rate
        with ExitStack() as stack:
            options = OpenOptions(threads=arguments.threads)
            sessions = {
                "ONNX Runtime fp32": open_artifact(plain, options, "onnxruntime"),
                "OpenVINO fp32": open_artifact(plain, options, "openvino"),
            }
            if "bf16" in load_target("cpu").precisions:
                bf16 = build(model, size, "bf16", arguments.out)
                sessions["OpenVINO bf16"] = open_artifact(bf16, options)
            sessions["INT8"] = open_artifact(int8, options)
            if arguments.nncf:
                sessions |= by_nncf(plain, arguments.nncf, arguments.threads)
            for session in sessions.values():
                stack.enter_context(session)
            feeds = dict.fromkeys(sessions, random_feeds(plain, concrete_shapes(plain, {})))
            results = time_interleaved(sessions, feeds, Rounds(arguments.seconds))
        p50 = {result.name: result.p50_ms for result in results}
        print(f"\n{model} at {size[0]}x{size[1]}, floor {floor:.2f} ms")
        for name, time in p50.items():
            against = f", {p50['INT8'] / time:.3f} x" if name != "INT8" else ""
            print(f"  {name:20} {time:8.2f} ms{against}")
        if arguments.nncf:
            best = min(p50[f"NNCF {preset}"] for preset in PRESETS)
            print(f"  INT8 takes {p50['INT8'] / best:.3f} x NNCF's time, the floor {floor / best:.3f} x")
        print(f"  kernels of INT8: {kernel_share(int8, arguments.threads)}")


if __name__ == "__main__":
    main()
