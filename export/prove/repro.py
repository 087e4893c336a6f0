"""The smallest model on which a rewrite errs: the changed nodes, fed with their tensors in the full model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgedeploy.core.files import replacing, write_bytes, write_text
from edgedeploy.core.parity import of_pass
from edgedeploy.export.graph_pass import GraphPass
from edgedeploy.export.prove.proof import Refuted, output_difference
from edgedeploy.export.split import submodel
from edgedeploy.graphs.edit import copy_model
from edgedeploy.graphs.run import Evaluator, Feeds, NotRunnable, Outputs
from edgedeploy.graphs.view import reads


@dataclass(frozen=True)
class Repro:
    """Two models that differ on `feeds` and should not; `note` describes them."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    feeds: Outputs
    note: str

    def save(self, folder: Path, name: str, reason: str) -> None:
        """Write before.onnx, after.onnx, feeds.npz and README.txt into `folder`; raises OutputError."""
        write_bytes(folder / "before.onnx", self.before.SerializeToString())
        write_bytes(folder / "after.onnx", self.after.SerializeToString())
        with replacing(folder / "feeds.npz") as temporary, temporary.open("wb") as stream:
            np.savez(stream, **dict(self.feeds))  # type: ignore[arg-type]  # names may be any text
        write_text(folder / "README.txt", _README.format(name=name, reason=reason, note=self.note))


def minimal(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, step: GraphPass, node: str
) -> Repro:
    """Both models reduced to the nodes that differ; the full models where the reduced ones agree."""
    whole = Repro(before, after, dict(feeds), "the whole model")
    old, new = _changed(before, after), _changed(after, before)
    if not step.keeps_contract or not old or not new:
        return whole
    made = _made(old) & _made(new)
    others = [node for node in before.graph.node if _made(old).isdisjoint(node.output)]
    outputs = sorted(made & (_read(others) | {value.name for value in before.graph.output}))
    read = (_read(old) - _made(old)) | (_read(new) - _made(new))
    wanted = sorted(read - _constants(before) - _constants(after))
    if not outputs:
        return whole
    seen = _exposed(before, wanted)(feeds) if wanted else {}
    flowing = {name: np.asarray(seen[name]) for name in wanted if name in seen and name not in feeds}
    flowing.update({name: np.asarray(feeds[name]) for name in wanted if name in feeds})
    small = Repro(
        _part(before, old, flowing, outputs),
        _part(after, new, flowing, outputs),
        {name: value for name, value in flowing.items() if name in wanted},
        f"cut out around node '{node}'" if node else "cut down to the nodes that changed",
    )
    return small if _differs(small, step.atol) else whole


def _differs(repro: Repro, atol: float) -> bool:
    try:
        expected = Evaluator(repro.before)(repro.feeds)
    except NotRunnable:
        return False
    try:
        return not of_pass(atol).accepts(output_difference(expected, Evaluator(repro.after)(repro.feeds)))
    except (NotRunnable, Refuted):
        return True


def _changed(model: onnx.ModelProto, other: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of a model that are missing in the other, or have other constants there."""
    theirs = Counter(_fingerprints(other))
    changed = []
    for node, print_ in zip(model.graph.node, _fingerprints(model), strict=True):
        if theirs[print_]:
            theirs[print_] -= 1
        else:
            changed.append(node)
    return changed


def _fingerprints(model: onnx.ModelProto) -> Iterator[bytes]:
    values = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
    for node in model.graph.node:
        yield node.SerializeToString() + b"".join(values.get(name, b"") for name in sorted(_read([node])))


def _part(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: Outputs, outputs: list[str]
) -> onnx.ModelProto:
    """A model of these nodes and their constants, with `feeds` as inputs."""
    values = (*model.graph.value_info, *model.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    info = onnx.helper.make_tensor_value_info
    dtype = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [info(name, dtype(value.dtype), value.shape) for name, value in feeds.items()]
    typed = [info(name, types.get(name) or onnx.TensorProto.FLOAT, None) for name in outputs]
    return submodel(model, nodes, inputs, typed, "repro")


def _exposed(model: onnx.ModelProto, names: Iterable[str]) -> Evaluator:
    """An evaluator that also returns tensors from inside the model."""
    watched = copy_model(model)
    there = {value.name for value in (*model.graph.output, *model.graph.input)}
    types = {value.name: value for value in model.graph.value_info}
    inner = [name for name in names if name not in there]
    watched.graph.output.extend(types.get(name, onnx.ValueInfoProto(name=name)) for name in inner)
    return Evaluator(watched)


def _made(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in reads(node)}


def _constants(model: onnx.ModelProto) -> set[str]:
    sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
    return {tensor.name for tensor in model.graph.initializer} | sparse


_README = """Pass {name} changed what a model computes, and was reverted:
{reason}

before.onnx and after.onnx are {note}; feeds.npz holds their inputs. To see the difference:

    import numpy, onnxruntime
    feeds = dict(numpy.load("feeds.npz"))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name in ("before.onnx", "after.onnx"):
        session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        print(name, session.run(None, feeds))

To see the pass do it again:

    edgedeploy optimize before.onnx --passes {name} --data feeds.npz -o again.onnx
"""
