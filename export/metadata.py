"""Write an ONNX model so that the file describes itself.

The artifact travels as JSON under one key of `metadata_props`; whatever else stands there is kept. Models
beyond protobuf's 2 GB get their weights in `<name>.data` beside them. Files are whole or absent.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import onnx

from edgedeploy.core.errors import OutputError
from edgedeploy.core.files import replacing, sha256_file, write_bytes
from edgedeploy.core.onnx_header import DTYPES
from edgedeploy.core.spec import METADATA_KEY, Artifact, Dim, Layout, TensorSpec
from edgedeploy.export.graph import Graph, dump

# Protobuf refuses messages of 2 GiB; the margin is for the graph around the weights.
PROTOBUF_LIMIT = 2**31 - 2**20


def save_model(
    model: onnx.ModelProto | Graph, artifact: Artifact, path: Path, *, limit: int = PROTOBUF_LIMIT
) -> Artifact:
    """Write `model` to `path` with `artifact` inside, and return that artifact as it is on disk.

    Names, dtypes and shapes of inputs and outputs are taken from the graph, layouts from the artifact's specs
    of the same name. Models of more than `limit` bytes keep their weights in `<path>.data`.
    Raises OutputError where `path` cannot be written.
    """
    proto = model if isinstance(model, onnx.ModelProto) else dump(model)
    inputs, outputs = tensor_specs(proto, artifact)
    stored = artifact.model_copy(update={"kind": "onnx", "inputs": inputs, "outputs": outputs})
    others = [entry for entry in proto.metadata_props if entry.key != METADATA_KEY]
    written = onnx.ModelProto()
    written.CopyFrom(proto)
    del written.metadata_props[:]
    written.metadata_props.extend(others)
    written.metadata_props.add(key=METADATA_KEY, value=stored.to_json())
    if written.ByteSize() > limit:
        _save_external(written, path)
    else:
        write_bytes(path, written.SerializeToString())
    return stored.model_copy(update={"path": path, "digest": sha256_file(path)})


def tensor_specs(
    model: onnx.ModelProto, known: Artifact | None = None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Specs of a model's fed inputs and its outputs; layouts come from `known`, else NCHW for rank 4."""
    layouts: dict[tuple[str, int], Layout] = {}
    for spec in (*known.inputs, *known.outputs) if known is not None else ():
        layouts[spec.name, len(spec.shape)] = spec.layout
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [_spec(value, layouts) for value in model.graph.input if value.name not in initializers]
    return tuple(inputs), tuple(_spec(value, layouts) for value in model.graph.output)


def _spec(value: onnx.ValueInfoProto, layouts: dict[tuple[str, int], Layout]) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(_dim(dim) for dim in tensor.shape.dim)
    layout = layouts.get((value.name, len(shape)), "NCHW" if len(shape) == 4 else "")
    dtype = DTYPES.get(tensor.elem_type, f"type {tensor.elem_type}")
    return TensorSpec(name=value.name, dtype=dtype, shape=shape, layout=layout)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= 0:  # some exporters write an unknown size as -1
        return dim.dim_value
    return dim.dim_param or "?"


def _save_external(model: onnx.ModelProto, path: Path) -> None:
    """The weights first, then the graph that names them: whoever sees the new graph finds its weights."""
    data = path.with_name(path.name + ".data")
    with replacing(path) as temporary:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}."))
        try:
            onnx.save_model(
                model, folder / path.name, save_as_external_data=True, location=data.name, size_threshold=1024
            )
            (folder / data.name).replace(data)
            (folder / path.name).replace(temporary)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}", "choose another place with -o"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
