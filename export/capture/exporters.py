"""The two ONNX exporters of PyTorch, without their log messages and with cleaned models.

Exported nodes carry stack traces with paths of the exporting machine; these are removed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.onnx import ONNXProgram

from edgedeploy.core.errors import ExportError

TORCHSCRIPT_MAX_OPSET = 20
_TRACING_LOG = "torch.onnx._internal.exporter._registration"


def export_dynamo(
    network: nn.Module | ExportedProgram,
    example: Tensor,
    input_name: str,
    output_names: Sequence[str],
    opset: int,
    dynamic: bool,
    multiple: int,
) -> onnx.ModelProto:
    """Capture by torch.export; raises ExportError with the exporter's first line.

    Dynamic sizes are tried as free dimensions, as multiples of `multiple`, then as torch infers them.
    """
    errors: list[Exception] = []
    for shapes in _dynamic_shapes(multiple) if dynamic else [None]:
        try:
            with _quiet():
                program = torch.onnx.export(
                    network,
                    (example,),
                    dynamo=True,
                    input_names=[input_name],
                    output_names=list(output_names),
                    opset_version=opset,
                    dynamic_shapes=shapes,
                    verbose=False,
                )
            model = cast(ONNXProgram, program).model_proto  # None only when writing to a file
            _require_size(model, dynamic)
            return _clean(model, opset)
        except Exception as error:  # noqa: BLE001, PERF203  exporters raise anything
            errors.append(error)
    raise ExportError(f"dynamo exporter: {_root(errors[0])}") from errors[0]


def export_torchscript(
    network: nn.Module,
    example: Tensor,
    input_name: str,
    output_names: Sequence[str],
    opset: int,
    dynamic: bool,
) -> onnx.ModelProto:
    """Capture by tracing; raises ExportError, also for opsets beyond 20."""
    if opset > TORCHSCRIPT_MAX_OPSET:
        raise ExportError(
            f"TorchScript exporter: opset {opset} is beyond its newest, {TORCHSCRIPT_MAX_OPSET}",
            f"capture.opset={TORCHSCRIPT_MAX_OPSET}",
        )
    axes = {2: "height", 3: "width"}
    try:
        with _quiet(), TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                network,
                (example,),
                path,
                dynamo=False,
                input_names=[input_name],
                output_names=list(output_names),
                opset_version=opset,
                dynamic_axes={input_name: axes} if dynamic else None,
            )
            model = onnx.load(path)
        _require_size(model, dynamic)
        return _clean(model, opset)
    except Exception as error:
        raise ExportError(f"TorchScript exporter: {_root(error)}") from error


def _dynamic_shapes(multiple: int) -> Iterator[Any]:
    yield ({2: Dim("height"), 3: Dim("width")},)
    if multiple > 1:
        yield ({2: multiple * Dim("rows"), 3: multiple * Dim("columns")},)
    yield ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)


def _require_size(model: onnx.ModelProto, dynamic: bool) -> None:
    """Name dynamic height and width; raises ExportError where the exporter fixed one."""
    if not dynamic:
        return
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for axis, name in ((2, "height"), (3, "width")):
        if dims[axis].HasField("dim_value"):
            raise ExportError(f"the network fixes its {name} at {dims[axis].dim_value}")
        dims[axis].dim_param = name


def _clean(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Remove traces and stale shapes, check the opset, infer shapes again."""
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if version != opset:
        raise ExportError(f"opset {opset} was asked for and {version} came out", f"capture.opset={version}")
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    functions = [node for function in model.functions for node in function.node]
    for entry in (*graph.node, *functions, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):  # an expression of symbols that `_require_size` renamed
                dim.Clear()
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _root(error: Exception) -> str:
    """The cause of an exporter's error, in one line."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:300]}" if lines else type(cause).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress exporter warnings: torch deprecations, tracer warnings, missing torchvision.

    Running the exported model finds tracing errors; the warnings are not needed.
    """
    log = logging.getLogger(_TRACING_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\..*")
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
            yield
    finally:
        log.setLevel(level)
