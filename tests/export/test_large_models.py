"""Models beyond protobuf's 2 GB, with the limit set low: proof, checker, and weights beside the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgedeploy.api import optimize as optimize_file
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.prove import proof
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs import metadata, run
from edgedeploy.graphs import surgeon as graph
from edgedeploy.graphs.read import read_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import Graph, Node


@pytest.fixture
def model(rng: np.random.Generator) -> onnx.ModelProto:
    body = "c = Conv<pads=[1,1,1,1]>(x, w) \n i = Identity(c) \n y = Relu(i)"
    return text_model("float[1,16,8,6] x", "y", body, {"w": floats(rng, 16, 16, 3, 3)})


def invalid(_: Graph, node: Node) -> int:
    known = "no_such_attribute" in node.attrs
    node.attrs["no_such_attribute"] = 1
    return int(not known)


def wrong(_: Graph, node: Node) -> int:
    node.op = "Neg"
    return 1


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "PROTOBUF_LIMIT", 1 << 10)
    monkeypatch.setattr(graph, "HEAVY", 16)
    for module in (run, proof):
        monkeypatch.setattr(module, "IN_MEMORY", 1 << 10)


@pytest.mark.usefixtures("low_limit")
@pytest.mark.parametrize(("rewrite", "says"), [(invalid, "no_such_attribute"), (wrong, "differs by")])
def test_proof_and_checker_work_beyond_the_limit(rewrite: object, says: str, model: onnx.ModelProto) -> None:
    lying = GraphPass(rewrite, "lying", 1e-5, lambda _: [], ("Relu",))  # type: ignore[arg-type]
    result = optimize(model, [lying, "drop-identity"])
    assert [offence.reason for offence in result.offences if says in offence.reason]
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("asked", [True, False])
def test_weights_go_beside_the_model(
    asked: bool, model: onnx.ModelProto, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not asked:
        request.getfixturevalue("low_limit")
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    beside = onnx.ModelProto()
    beside.CopyFrom(model)
    onnx.save_model(beside, source, save_as_external_data=True, location="in.bin", size_threshold=0)
    optimize_file(source, out, external_data=asked)
    assert (tmp_path / "out.onnx.data").stat().st_size == 16 * 16 * 9 * 4
    assert out.stat().st_size < 4096
    feeds = {"x": np.ones((1, 16, 8, 6), np.float32)}
    written = read_model(out)
    np.testing.assert_array_equal(Evaluator(written)(feeds)["y"], Evaluator(model)(feeds)["y"])
    assert [node.op_type for node in written.graph.node] == ["Conv", "Relu"]


@pytest.mark.usefixtures("low_limit")
def test_nothing_that_protobuf_must_measure_or_write_out(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 GB a message has no ByteSize and no bytes; here every message with weights behaves so."""
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    beside = onnx.ModelProto()
    beside.CopyFrom(model)
    onnx.save_model(beside, source, save_as_external_data=True, location="in.bin", size_threshold=0)

    def checked(name: str) -> Callable[..., Any]:
        real = getattr(onnx.ModelProto, name)

        def call(self: onnx.ModelProto, *words: object) -> Any:
            held = sum(len(tensor.raw_data) for tensor in self.graph.initializer)
            assert held <= 1 << 10, f"{name} of {held} bytes"
            return real(self, *words)

        return call

    for name in ("SerializeToString", "ByteSize"):
        monkeypatch.setattr(onnx.ModelProto, name, checked(name))
    optimize_file(source, out)
    assert [node.op_type for node in read_model(out).graph.node] == ["Conv", "Relu"]


def test_functions_and_what_the_file_says_of_itself_survive(rng: np.random.Generator) -> None:
    model = PASSES.get("fold-batchnorm").examples(rng)[0][0]
    body = [helper.make_node("Neg", ["a"], ["n"]), helper.make_node("Identity", ["n"], ["b"])]
    opsets = list(model.opset_import)
    model.functions.append(helper.make_function("own", "Minus", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    name = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Minus", [name], ["minus"], domain="own"))
    kind = model.graph.output[0].type.tensor_type.elem_type
    model.graph.output.append(helper.make_tensor_value_info("minus", kind, None))
    model.graph.doc_string, model.graph.input[0].doc_string = "of the graph", "of the input"
    model.graph.input[0].type.denotation = "IMAGE"
    model.producer_name = "somebody"
    result = optimize(model)
    after = result.model
    assert result.not_run == ""
    assert result.steps
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
    assert [node.op_type for node in after.functions[0].node] == ["Neg", "Identity"]
    assert {node.op_type for node in after.graph.node} >= {"Minus"}
    assert (after.graph.doc_string, after.graph.input[0].doc_string) == ("of the graph", "of the input")
    assert after.graph.input[0].type.denotation == "IMAGE"
    assert after.producer_name == "somebody"
    assert after.ir_version == model.ir_version
    assert {(entry.domain, entry.version) for entry in after.opset_import} == {
        (entry.domain, entry.version) for entry in model.opset_import
    }
