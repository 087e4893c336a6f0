"""A stranger's model, PP-OCRv3's text detector, beside NNCF's INT8 of it: time, and masks on fresh photos.

    python -m benchmarks.stranger --shared ../shared --nncf peers/bin/python

Of 148 photos of ICDAR 2013 24 are reported on; `--precision auto` divides the others into those that it
calibrates on and those that it chooses by; NNCF gets 16 of them and the file as published. One interleaved
run. What is promised is a mean of 0.985, by its lower bound, and a worst of 0.93, by a margin.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from benchmarks.guard import PP_OCR
from edgedeploy.backend import OpenOptions, Session
from edgedeploy.backends.openvino import OpenVinoSession, _core
from edgedeploy.bench import Rounds, time_interleaved
from edgedeploy.calibration import calibration_feeds
from edgedeploy.cli.console import Reporter
from edgedeploy.core.cache import Cache
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.graphs.view import concrete
from edgedeploy.guard.score import agreement_scores
from edgedeploy.pipeline import deliver, run
from edgedeploy.runtime.select import open_artifact
from edgedeploy.task import task_for

CALIBRATED, REPORTED = slice(0, 16), slice(16, 40)  # the photos that facts about NNCF's model are known of
SIZE = (640, 640)


def links(folder: Path, photos: Sequence[Path]) -> Path:
    """A folder of links to photos."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        if not (folder / photo.name).exists():
            (folder / photo.name).symlink_to(photo.resolve())
    return folder


def rows(artifact: Artifact, folder: Path) -> list[dict[str, np.ndarray]]:
    """The photos of a folder as the model takes them."""
    names, preprocess = tuple(spec.name for spec in artifact.inputs), task_for(artifact).preprocess
    return list(
        calibration_feeds(folder, preprocess, 1000, inputs=names, specs=artifact.inputs, size=SIZE)  # type: ignore[arg-type]
    )


def by_nncf(source: Path, plain: Artifact, python: str, photos: Path, out: Path) -> Session:
    """NNCF's INT8 of the published file at the fixed size, as OpenVINO opens it."""
    name = plain.inputs[0].name
    fixed, feeds, quantized = (out / f"nncf{suffix}" for suffix in (".onnx", ".npz", ".xml"))
    onnx.save(concrete(onnx.load(source), {name: (1, 3, *SIZE)}), fixed)
    np.savez(feeds, np.concatenate([feed[name] for feed in rows(plain, photos)]))
    script = Path(__file__).with_name("nncf_worker.py")
    command = [python, script, fixed, feeds, quantized, "mixed"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    request = _core().compile_model(quantized, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    return OpenVinoSession(plain.inputs, plain.outputs, request, profile=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of real data")
    parser.add_argument("--nncf", metavar="PYTHON", help="interpreter with NNCF and OpenVINO")
    parser.add_argument("--seconds", type=float, default=20, help="of the interleaved run")
    parser.add_argument(
        "--budget", nargs="*", default=["agreement_low>=0.985", "worst>=0.95"], help="to choose by"
    )
    parser.add_argument(
        "--set", nargs="*", default=["guard.scored=108"], metavar="FIELD=VALUE", help="more of the recipe"
    )
    parser.add_argument("--out", type=Path, default=Path("out/stranger"), help="folder for models")
    arguments = parser.parse_args()
    source, out = arguments.shared / "data/models/ppocrv3_det_DBNet.onnx", arguments.out
    photos = sorted((arguments.shared / "data/text_icdar13/train_images").iterdir())
    reported = links(out / "reported", photos[REPORTED])
    chosen = links(out / "chosen", [*photos[CALIBRATED], *photos[REPORTED.stop :]])
    budget = f"guard.budget={arguments.budget}".replace("'", '"')
    recipe = Recipe().edited([*PP_OCR, "precision=auto", "calibration.limit=16", budget, *arguments.set])
    job = Job(str(source), recipe, load_target("cpu"), chosen, size=SIZE)
    plain = run(job, Reporter(), Cache(), "optimize")
    built = deliver(run(job, Reporter(), Cache()), out / "ppocrv3.onnx")
    print(built.details.guard.sentence)
    shapes = {plain.inputs[0].name: (1, 3, *SIZE)}
    with ExitStack() as stack:
        sessions = {
            "fp32": stack.enter_context(open_artifact(plain, OpenOptions(shapes=shapes), "openvino")),
            "what ships": stack.enter_context(open_artifact(built, OpenOptions(shapes=shapes))),
        }
        if arguments.nncf:
            calibrated = links(out / "calibrated", photos[CALIBRATED])
            sessions["NNCF"] = by_nncf(source, plain, arguments.nncf, calibrated, out)
        feeds, task = rows(plain, reported), task_for(plain)
        times = {
            r.name: r.p50_ms
            for r in time_interleaved(sessions, dict.fromkeys(sessions, feeds[0]), Rounds(arguments.seconds))
        }
        print("\n| | ms | / fp32 | mean IoU | worst IoU |\n|---|---|---|---|---|")
        for name, session in sessions.items():
            pairs = (
                ({k: v.copy() for k, v in sessions["fp32"](feed).items()}, session(feed)) for feed in feeds
            )
            found, time = agreement_scores(task, pairs), times[name]
            scores = f"{found['agreement']:.3f} | {found['worst']:.3f}"
            print(f"| {name} | {time:.2f} | {time / times['fp32']:.2f} | {scores} |")


if __name__ == "__main__":
    main()
