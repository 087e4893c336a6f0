"""NNCF's INT8 of an ONNX file as OpenVINO IR: `PYTHON nncf_worker.py MODEL.onnx FEEDS.npz OUT.xml PRESET`.

Runs in the interpreter in which NNCF is installed, so it imports nothing of this project. FEEDS.npz holds one
array, a row of the network's only input for each calibration input.
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import openvino


def main(source: str, feeds: str, out: str, preset: str) -> None:
    with np.load(feeds) as archive:
        rows = archive[archive.files[0]]
    quantized = nncf.quantize(
        openvino.Core().read_model(source),
        nncf.Dataset([row[None] for row in rows]),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(rows),
    )
    openvino.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
