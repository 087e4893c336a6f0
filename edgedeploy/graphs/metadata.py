"""Write an ONNX model with its artifact in the file's metadata.

The artifact travels as JSON under one key of `metadata_props`; whatever else stands there is kept. Models
beyond protobuf's 2 GB get their weights in `<name>.data` beside them. A file is written whole or not at all.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from edgedeploy.core.errors import OutputError
from edgedeploy.core.files import replacing, sha256_file, write_bytes
from edgedeploy.core.onnx_header import DTYPES
from edgedeploy.core.spec import METADATA_KEY, Artifact, Dim, Layout, TensorSpec
from edgedeploy.graphs.weights import bytes_of_all, write_beside

# Protobuf refuses messages of 2 GiB. Weights are what is counted; the margin is for the graph around them.
PROTOBUF_LIMIT = 2**31 - 2**24


def save_model(
    model: onnx.ModelProto, artifact: Artifact, path: Path, *, limit: int | None = None
) -> Artifact:
    """Write `model` to `path` with `artifact` inside, and return that artifact as it is on disk.

    Names, dtypes and shapes of inputs and outputs are taken from the graph, layouts from the artifact's specs
    of the same name. Models of more than `limit` bytes, by default what protobuf takes, keep their weights in
    `<path>.data`. Raises OutputError where `path` cannot be written.
    """
    inputs, outputs = tensor_specs(model, artifact)
    stored = artifact.model_copy(update={"kind": "onnx", "inputs": inputs, "outputs": outputs})
    if bytes_of_all(model) > (PROTOBUF_LIMIT if limit is None else limit):
        _save_external(model, stored, path)
    else:
        written = onnx.ModelProto()
        written.CopyFrom(model)
        write_bytes(path, _describing(written, stored).SerializeToString())
    return stored.model_copy(update={"path": path, "digest": sha256_file(path)})


def _describing(model: onnx.ModelProto, artifact: Artifact) -> onnx.ModelProto:
    """Put the artifact into the metadata of a model, in place."""
    others = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    model.metadata_props.add(key=METADATA_KEY, value=artifact.to_json())
    return model


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


def _save_external(model: onnx.ModelProto, artifact: Artifact, path: Path) -> None:
    """Write the weights, then the graph that names them: a new graph never lacks its weights."""
    data = path.with_name(path.name + ".data")
    with replacing(path) as temporary, replacing(data) as weights:
        try:
            light = _describing(write_beside(model, weights, data.name), artifact)
            temporary.write_bytes(light.SerializeToString())
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}", "choose another place with -o"
            ) from error
