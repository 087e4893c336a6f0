"""The same graph in another opset, by onnx's own converter, with what that gets wrong put right or refused.

The converter changes numbers without a word: it drops the coordinates of Upsample and Resize before opset 11
and the axes of Hardmax before 13. So a conversion is proved like a graph pass: both models are run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import onnx
from onnx import helper, version_converter

from edgedeploy.core.errors import ParityError, first_line
from edgedeploy.core.parity import difference, of_pass
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator, Feeds, NotRunnable, Outputs
from edgedeploy.graphs.surgeon import Graph, Skip, dump, has_bodies, is_standard, load

# Conversions that are right mostly differ by nothing.
TOLERANCE = of_pass(1e-4)
_RESIZED = 11  # the opset from which Resize says where its samples lie
_SAMPLES_BEFORE = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


class NotConvertible(Exception):
    """A model that cannot be brought to an opset, or not without other numbers; the message says why."""


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own operators; 0 where the model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def converted(model: onnx.ModelProto, opset: int, feeds: Iterable[Feeds] = ()) -> onnx.ModelProto:
    """A copy of the model in `opset`, which computes the same on random inputs and on `feeds`.

    Metadata is kept. A model that ONNX Runtime runs on none of those is converted without proof. Raises
    NotConvertible.
    """
    made = _converted(model, opset)
    try:
        before, after = Evaluator(model), Evaluator(made)
    except NotRunnable:
        return _with_metadata(made, model)
    for inputs, expected in _runs(before, feeds):
        try:
            outputs = after(inputs)
        except NotRunnable as error:
            raise NotConvertible(f"the converted model does not run: {error}") from error
        _require_same(expected, outputs)
    return _with_metadata(made, model)


def _runs(evaluator: Evaluator, feeds: Iterable[Feeds]) -> Iterator[tuple[Feeds, Outputs]]:
    """Real and random inputs that the model takes, with its outputs."""
    for inputs in feeds:
        with suppress(NotRunnable):
            yield inputs, evaluator(inputs)
    with suppress(NotRunnable):
        yield from feed_sets(evaluator, 1)


def _require_same(expected: Outputs, outputs: Outputs) -> None:
    try:
        found = difference(expected, outputs)
    except ParityError as error:
        raise NotConvertible(f"onnx's converter changes the outputs: {error}") from error
    if not TOLERANCE.accepts(found):
        raise NotConvertible(f"onnx's converter changes what the model computes: {found}")


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """By onnx's converter, with the coordinates of Upsample and Resize kept; not proved."""
    try:
        if opset_of(model) < _RESIZED <= opset:
            model = version_converter.convert_version(model, _RESIZED)
            for node in model.graph.node:
                if node.op_type == "Resize":
                    node.attribute.extend(
                        helper.make_attribute(name, value)
                        for name, value in _SAMPLES_BEFORE.items()
                        if name not in {entry.name for entry in node.attribute}
                    )
        return version_converter.convert_version(model, opset)
    except Exception as error:  # what it lacks an adapter for, with file and line of its own
        reason = first_line(error).rpartition("failed: ")[2].replace("$", "")
        raise NotConvertible(f"onnx's converter refuses: {reason}") from error


def _with_metadata(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    return model


def require_convertible(graph: Graph) -> None:
    """Raise Skip for what the converter would lose or leave half done."""
    if graph.functions or any(not is_standard(node) for node in graph.nodes):
        raise Skip("the converter does not carry operators of other domains or local functions")
    if any(has_bodies(node) for node in graph.nodes):
        raise Skip("the converter does not reach into the bodies of control-flow nodes")


def convert(graph: Graph, opset: int) -> None:
    """Bring a graph to `opset`; raises Skip where the converter cannot, and leaves the graph as it is.

    Not proved here: a graph pass is proved by its runner.
    """
    try:
        made = load(_converted(dump(graph), opset))
    except (NotConvertible, ValueError) as error:
        raise Skip(str(error)) from error
    names = [[tensor.name for tensor in tensors] for tensors in (made.inputs, made.outputs)]
    if names != [[tensor.name for tensor in tensors] for tensors in (graph.inputs, graph.outputs)]:
        raise Skip("onnx's converter changes the names of inputs or outputs")
    graph.nodes[:], graph.inputs[:], graph.outputs[:] = made.nodes, made.inputs, made.outputs
    graph.opset, graph.import_domains = made.opset, made.import_domains
    graph.ir_version = max(graph.ir_version, made.ir_version)
