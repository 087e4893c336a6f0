"""One row of `benchmarks.calibration_memory` in a process of its own.

Reads a request as JSON from the command line, prints the row as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgedeploy.backend import Feeds
from edgedeploy.bench.memory import peak_mb
from edgedeploy.core.spec import Artifact


def images(artifact: Artifact, folder: Path, count: int) -> Iterator[Feeds]:
    """Decoded and preprocessed inputs, as calibration gets them."""
    from edgedeploy.calibration.collect.dataset import CalibrationData

    yield from CalibrationData.of(artifact, folder, count)()


def ours(
    artifact: Artifact, folder: Path, count: int, mem: int, corrections: Sequence[str] | None
) -> dict[str, Any]:
    """Memory and seconds of quantizing; [] for no corrections of weights, as the peer has none."""
    from edgedeploy.calibration import CalibrationData, quantize

    model = onnx.load(artifact.path)
    before = peak_mb()
    start = time.perf_counter()
    data = CalibrationData.of(artifact, folder, count)
    result = quantize(model, data, rules="openvino", corrections=corrections, memory_mb=mem)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "before_mb": before, "passes": result.report.passes}


def beside_inference(artifact: Artifact, folder: Path, count: int) -> dict[str, Any]:
    """Seconds of collecting and ranges over those of plain inference, image by image in turn.

    Both decode every image themselves. Processor time is told too, for machines that others use meanwhile.
    """
    from edgedeploy.calibration import load_rules, make_calibrator
    from edgedeploy.calibration.collect.collect import collect
    from edgedeploy.calibration.place.placement import prepared, wanted

    model, _ = prepared(onnx.load(artifact.path))
    tensors = wanted(model, load_rules("openvino"))
    options = onnxruntime.SessionOptions()
    # Its threads would otherwise run on in a loop while the other side is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    plain = onnxruntime.InferenceSession(str(artifact.path), options, ["CPUExecutionProvider"])
    times: list[tuple[float, float]] = []

    class Turns:
        def __len__(self) -> int:
            return count

        def __iter__(self) -> Iterator[Feeds]:
            mine, theirs = images(artifact, folder, count), images(artifact, folder, count)
            for _ in range(count):
                begin = clocks()
                plain.run(None, dict(next(theirs)))
                times.append(since(begin))
                yield next(mine)

    start = clocks()
    found = collect(model, tensors, Turns, histograms=True)
    calibrator = make_calibrator("entropy", {})
    for entry in found.statistics.values():
        calibrator.range_of(entry)
    wall, processor = since(start)
    plain_wall, plain_processor = (sum(column) for column in zip(*times, strict=True))
    return {
        "seconds": wall - plain_wall,
        "plain_seconds": plain_wall,
        "ratio": (wall - plain_wall) / plain_wall,
        "processor_ratio": (processor - plain_processor) / plain_processor,
    }


def clocks() -> tuple[float, float]:
    """Wall and processor time of this process in seconds."""
    return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float]) -> tuple[float, float]:
    """How far the clocks went."""
    wall, processor = clocks()
    return wall - begin[0], processor - begin[1]


def theirs(artifact: Artifact, folder: Path, count: int) -> dict[str, Any]:
    """Memory and seconds of ONNX Runtime's quantize_static, entropy."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = images(artifact, folder, count)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            feeds = next(self.feeds, None)
            return None if feeds is None else dict(feeds)

    before = peak_mb()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        quantize_static(
            str(artifact.path),
            str(Path(out) / "int8.onnx"),
            Reader(),
            calibrate_method=CalibrationMethod.Entropy,
        )
    return {"seconds": time.perf_counter() - start, "before_mb": before}


def main() -> None:
    request = json.loads(sys.argv[1])
    artifact, folder = Artifact.load(request["model"]), Path(request["data"])
    if request["row"] == "ours":
        row = ours(artifact, folder, request["count"], request["mem"], [])
    elif request["row"] == "ours, corrected":
        row = ours(artifact, folder, request["count"], request["mem"], None)
    elif request["row"] == "beside inference":
        row = beside_inference(artifact, folder, request["count"])
    else:
        row = theirs(artifact, folder, request["count"])
    print(json.dumps({**row, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
