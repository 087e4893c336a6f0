"""Read an ONNX file that may be damaged or hostile; errors come before anything is computed.

No memory is allocated on a claim of the file: sizes are compared with the bytes that are there, and weights
beside the file must lie in its folder.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from edgedeploy.core.errors import ArtifactError, first_line
from edgedeploy.graphs.structure import check_structure
from edgedeploy.graphs.weights import PACKED, bytes_in, tensors

AGAIN = "export or copy the model again"
_PAIRS = frozenset({TensorProto.COMPLEX64, TensorProto.COMPLEX128})


def read_model(path: Path) -> onnx.ModelProto:
    """The model at `path` with all its weights; raises ArtifactError that says what is wrong with the file.

    Its structure is sound: every tensor read is made exactly once and in no circle, operators exist in the
    opset named, and every initializer has as many values as its shape says. Types of operators' inputs are
    checked too. Operators of other domains than ONNX's own are taken on trust.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a model file" if path.is_dir() else "does not exist"
        raise ArtifactError(f"{path} {what}", "name an .onnx file")
    if path.stat().st_size == 0:
        raise ArtifactError(f"{path} is empty", AGAIN)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # noqa: BLE001  protobuf has errors of its own
        raise ArtifactError(f"{path} is not a whole ONNX file: {first_line(error)}", AGAIN) from None
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise ArtifactError(f"{path} is not an ONNX model: it has no graph with outputs", AGAIN)
    try:
        for tensor in tensors(model):
            _check_values(tensor, path.parent)
        load_external_data_for_model(model, str(path.parent))
        check_structure(model)
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"{path} is damaged: {first_line(error)}", AGAIN) from None
    return model


def _check_values(tensor: TensorProto, folder: Path) -> None:
    """Raise ValueError unless the tensor has as many values as its shape says."""
    name = f"tensor '{tensor.name}'"
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"{name} has a negative size: {list(tensor.dims)}")
    known = tensor.data_type in TensorProto.DataType.values()
    if not known or tensor.data_type == TensorProto.UNDEFINED:
        raise ValueError(f"{name} is of type {tensor.data_type}, which is none of ONNX")
    count = math.prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        found, wanted = len(tensor.string_data), count
    elif uses_external_data(tensor):
        found, wanted = _external_bytes(tensor, folder), bytes_in(tensor.data_type, count)
    elif tensor.HasField("raw_data"):
        found, wanted = len(tensor.raw_data), bytes_in(tensor.data_type, count)
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data)
        found = max(map(len, (*fields, tensor.double_data, tensor.uint64_data)))
        wanted = count * 2 if tensor.data_type in _PAIRS else count
        if tensor.data_type in PACKED:
            wanted = bytes_in(tensor.data_type, count)
    if found != wanted:
        what = "bytes" if uses_external_data(tensor) or tensor.HasField("raw_data") else "values"
        raise ValueError(f"{name} of shape {list(tensor.dims)} needs {wanted} {what} and has {found}")


def _external_bytes(tensor: TensorProto, folder: Path) -> int:
    """Size of a tensor's values beside the model; raises ValueError unless they lie in the model's folder."""
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    root, location = folder.resolve(), entries.get("location", "")
    try:
        place = (root / location).resolve()
    except (OSError, ValueError, RuntimeError):
        place = root.parent
    if not location or not place.is_relative_to(root) or place == root:
        raise ValueError(f"the weights of '{tensor.name}' lie outside the model's folder: '{location}'")
    if not place.is_file():
        raise ValueError(f"the weights of '{tensor.name}' are missing: {location}, beside the model")
    size: int = place.stat().st_size
    offset = int(entries.get("offset") or 0)
    length = int(entries.get("length") or max(0, size - offset))
    if not 0 <= offset <= size or length < 0:
        raise ValueError(f"the weights of '{tensor.name}' begin beyond the end of {location}")
    return min(length, size - offset)
