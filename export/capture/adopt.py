"""Adopt an ONNX file: check it, infer shapes, write metadata. Needs no torch."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import onnx

from edgedeploy.core.errors import ArtifactError, first_line
from edgedeploy.core.onnx_header import QUANTIZED
from edgedeploy.core.spec import Artifact, Precision, Step, TaskSpec
from edgedeploy.graphs.metadata import save_model
from edgedeploy.graphs.read import read_model


def adopt(source: Path, out: Path, *, name: str, task: TaskSpec | None = None) -> Artifact:
    """Write the model at `source` with metadata to `out`; existing metadata stay.

    Raises ArtifactError if the file is damaged or the ONNX checker refuses it.
    """
    known = Artifact.load(source)
    started = time.perf_counter()
    model = read_model(source)
    try:
        onnx.checker.check_model(str(source))
    except Exception as error:  # the checker, protobuf and the file system each raise their own
        raise ArtifactError(
            f"{source} is not a valid ONNX model: {first_line(error)}", "export it again"
        ) from error
    with suppress(ValueError, RuntimeError):  # over 2 GB, or custom operators: the shapes of the file remain
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if known.history:
        return save_model(model, known.model_copy(update={"task": task or known.task}), out)
    took = (time.perf_counter() - started) * 1e3
    step = Step(name="adopt", options={"file": source.name}, hits=1, milliseconds=took)
    foreign = known.with_step(step, model=name, task=task or known.task, precision=precision_of(model))
    return save_model(model, foreign, out)


def precision_of(model: onnx.ModelProto) -> Precision:
    """Int8 for a graph with Q/DQ, fp16 where most weights are float16, else fp32."""
    if any(node.op_type in QUANTIZED for node in model.graph.node):
        return "int8"
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return "fp16" if sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT] else "fp32"
