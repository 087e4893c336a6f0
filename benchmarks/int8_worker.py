"""One peer's quantizer in a process of its own; a request and the answer are lines of JSON.

Runs in the interpreter in which that tool is installed, so it imports nothing of this project. Every tool has
the settings that its manual shows for a convolutional network, on the same model and the same inputs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def load(path: str) -> list[dict[str, Any]]:
    """Feeds of an .npz: arrays called NUMBER:INPUT."""
    import numpy as np

    feeds: dict[int, dict[str, Any]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            number, _, name = key.partition(":")
            feeds.setdefault(int(number), {})[name] = archive[key]
    return [feeds[number] for number in sorted(feeds)]


def nncf(source: str, feeds: list[dict[str, Any]], out: str) -> None:
    import nncf
    import onnx

    model = nncf.quantize(
        onnx.load(source), nncf.Dataset(feeds), preset=nncf.QuantizationPreset.MIXED, subset_size=len(feeds)
    )
    onnx.save(model, out)


def modelopt(source: str, feeds: list[dict[str, Any]], out: str) -> None:
    from modelopt.onnx.quantization import quantize
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

        def get_first(self) -> Any:
            return feeds[0]

        def rewind(self) -> None:
            self.left = iter(feeds)

    quantize(
        source,
        quantize_mode="int8",
        calibration_data_reader=Reader(),
        calibration_method="entropy",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
    )


def onnxruntime(source: str, feeds: list[dict[str, Any]], out: str) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    prepared = f"{out}.prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


TOOLS = {"NNCF": nncf, "modelopt": modelopt, "ONNX Runtime": onnxruntime}


def main(tool: str) -> None:
    """Answer requests {"source", "feeds", "out"} until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # the tools print
    for line in sys.stdin:
        request, error, begin = json.loads(line), "", time.perf_counter()
        try:
            TOOLS[tool](request["source"], load(request["feeds"]), request["out"])
        except Exception as failure:  # noqa: BLE001  any failure of theirs is a cell of the table
            error = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
        answers.write(json.dumps({"seconds": time.perf_counter() - begin, "error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
