"""The runner: proof of every pass, reverts with reasons, real models, and models that are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.parity import of_pass
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.prove.proof import output_difference
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import Graph, Node, Skip, constant, insert, variable

REAL = [
    "ch_ppocr_mobile_v2.0_cls_infer.onnx",
    "espcn_pytorch_tutorial_x3_super_resolution.onnx",
    "mnist.onnx",
    "ppocrv3_det_DBNet.onnx",
    "ultraface_slim-320_simplified.onnx",
    "yunet_n_320_320.onnx",
]


def conv_relu(rng: np.random.Generator) -> onnx.ModelProto:
    body = "a = Conv<pads=[1,1,1,1]>(x, w) \n y = Relu(a)"
    return text_model("float[1,3,8,6] x", "y", body, {"w": floats(rng, 4, 3, 3, 3)})


def lying(rewrite: Callable[..., int], **changes: Any) -> GraphPass:
    """A pass that is in no registry, promising 1e-5."""
    item = GraphPass(rewrite, "lying", 1e-5, lambda _: [], ("Relu",))
    return replace(item, **changes)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def drop_relu(graph: Graph, node: Node) -> int:
    node.op = "Neg"
    return 1


def leave_invalid(graph: Graph, node: Node) -> int:
    node.op, node.attrs["no_such_attribute"] = "Sigmoid", 1
    return 1


def change_dtype(graph: Graph, node: Node) -> int:
    if node.outputs[0].name == "narrow":
        return 0
    result = node.outputs[0]
    narrow = variable(graph, "narrow", np.dtype(np.float32))
    node.outputs = [narrow]
    insert(graph, "Cast", [narrow], [result], to=int(onnx.TensorProto.DOUBLE))
    result.dtype = np.dtype(np.float64)
    return 1


def claim_old_format(graph: Graph, node: Node) -> int:
    """ONNX Runtime takes initializers that are no inputs in this format; ONNX does not."""
    before, graph.ir_version = graph.ir_version, 3
    return int(before != 3)


def never_ends(graph: Graph, node: Node) -> int:
    return 1


def fail(graph: Graph, node: Node) -> int:
    node.inputs.clear()
    raise IndexError("off by one")


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (drop_relu, "differs by"),
        (leave_invalid, "no_such_attribute"),
        (change_dtype, "is float64 and was float32"),
        (fail, "IndexError: off by one"),
        (claim_old_format, "the ONNX checker refuses"),
        (never_ends, "still fires after 100 sweeps"),
    ],
)
def test_a_pass_that_lies_is_reverted_and_named(
    rewrite: Callable[..., int], reason: str, rng: np.random.Generator
) -> None:
    model = conv_relu(rng)
    result = optimize(model, [lying(rewrite), "drop-identity"])
    assert operators(result.model) == operators(model)
    (step,) = result.reverted
    assert step.name == "lying"
    assert step.nodes_after == step.nodes_before
    assert reason in step.reason
    assert result.history() == ()


def test_the_others_still_run_after_a_revert(rng: np.random.Generator) -> None:
    case = PASSES.get("fold-batchnorm").examples(rng)[0][0]

    def poison(graph: Graph, node: Node) -> int:
        return 0 if node.inputs[1].values.max() > 50 else double(node.inputs[1])

    def double(scale: Any) -> int:
        scale.values = scale.values * 100
        return 1

    result = optimize(case, [lying(poison, ops=("BatchNormalization",)), "fold-batchnorm"])
    assert [(step.name, step.reverted) for step in result.steps] == [
        ("lying", True),
        ("fold-batchnorm", False),
    ]
    assert operators(result.model) == {"Conv": 1}


def test_without_verification_even_a_lie_stands(rng: np.random.Generator) -> None:
    once = lying(drop_relu, name="once")
    result = optimize(conv_relu(rng), [once], verify=False)
    assert operators(result.model)["Neg"] == 1
    assert not result.verified
    assert result.steps[0].error is None


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_epsilon_of_another_size_is_caught_with_any_weights(seed: int) -> None:
    """1e-2 for 1e-5 in BatchNormalization, which loose tolerances let through."""
    (model, _), *_ = PASSES.get("fold-batchnorm").examples(np.random.default_rng(seed))

    def off(graph: Graph, node: Node) -> int:
        before = float(node.attrs.get("epsilon", 1e-5))
        node.attrs["epsilon"] = before + 1e-2 if before < 0.015 else before
        return int(before < 0.015)

    assert optimize(model, [lying(off, ops=("BatchNormalization",))]).reverted


def test_rounds_repeat_until_nothing_fires(rng: np.random.Generator) -> None:
    """Folding a constant makes the pad known, the pad then folds: three passes in the wrong order."""
    weights = {"w": floats(rng, 4, 3, 3, 3), "p": np.array([0, 0, 1, 1, 0, 0, 0, 0]), "o": np.array([1])}
    body = "q = Mul(p, o) \n a = Pad(x, q) \n c = Conv(a, w) \n i = Identity(c) \n y = Relu(i)"
    result = optimize(
        text_model("float[1,3,8,6] x", "y", body, weights), ["fold-pad", "fold-constants", "drop-identity"]
    )
    assert operators(result.model) == {"Conv": 1, "Relu": 1}
    assert [step.name for step in result.steps] == ["fold-constants", "drop-identity", "fold-pad"]


def test_what_changes_the_contract_runs_once(rng: np.random.Generator) -> None:
    weights = {"w": floats(rng, 4, 3, 3, 3)}
    model = text_model("float[1,3,8,6] x", "y", "c = Conv(x, w) \n i = Identity(c) \n y = Relu(i)", weights)
    result = optimize(model, ["embed-preprocess", "drop-identity"])
    assert [(step.name, step.hits) for step in result.steps] == [
        ("embed-preprocess", 1),
        ("drop-identity", 1),
    ]


def test_a_reverted_pass_is_not_tried_again(rng: np.random.Generator) -> None:
    weights = {"w": floats(rng, 4, 3, 3, 3)}
    model = text_model("float[1,3,8,6] x", "y", "c = Conv(x, w) \n i = Identity(c) \n y = Relu(i)", weights)
    result = optimize(model, [lying(drop_relu), "drop-identity"])
    assert [(step.name, step.reverted) for step in result.steps] == [
        ("lying", True),
        ("drop-identity", False),
    ]


def test_skips_say_why(rng: np.random.Generator) -> None:
    body = "c = Conv(x, w) \n y = BatchNormalization(c, s, s, s, s) \n z = Relu(c)"
    weights = {"w": floats(rng, 4, 3, 3, 3), "s": np.ones(4, np.float32)}
    result = optimize(text_model("float[1,3,8,6] x", "y, z", body, weights), ["fold-batchnorm"])
    ((name, skipped),) = result.skipped
    assert (name, skipped.op) == ("fold-batchnorm", "BatchNormalization")
    assert "2 readers" in skipped.reason


def test_real_inputs_count(rng: np.random.Generator) -> None:
    """A rewrite that is wrong only where the real input goes is caught by that input."""
    model = text_model("float[1,3,8,8] x", "y", "y = Relu(x)", {})

    def clip(graph: Graph, node: Node) -> int:
        low, high = (constant(graph, n, np.asarray(v), np.float32) for n, v in (("low", 0.0), ("high", 99.0)))
        node.op, node.inputs = "Clip", [node.inputs[0], low, high]
        return 1

    item = lying(clip)
    assert not optimize(model, [item]).reverted
    bright = {"x": np.full((1, 3, 8, 8), 255, np.float32)}
    assert optimize(model, [item], feeds=[bright]).reverted


@pytest.mark.parametrize("file", REAL)
def test_real_models_compute_the_same_with_fewer_nodes(file: str, shared: Path) -> None:
    model = onnx.load(shared / "data" / "models" / file)
    result = optimize(model)
    assert not result.reverted
    assert result.not_run == ""
    assert operators(result.model)["BatchNormalization"] == 0
    assert len(result.model.graph.node) <= len(model.graph.node)
    before, after = Evaluator(model), Evaluator(result.model)
    for feeds, outputs in feed_sets(before, 1):
        assert of_pass(1e-3).accepts(output_difference(outputs, after(feeds)))


def test_a_custom_operator_leaves_the_model_alone(rng: np.random.Generator) -> None:
    model = conv_relu(rng)
    model.graph.node[1].domain = "my.company"
    model.opset_import.append(onnx.helper.make_opsetid("my.company", 1))
    result = optimize(model)
    assert "ONNX Runtime cannot run" in result.not_run
    assert result.model is model


def test_a_custom_operator_does_not_stop_unverified_passes(rng: np.random.Generator) -> None:
    case = PASSES.get("fold-batchnorm").examples(rng)[0][0]
    case.graph.node.append(onnx.helper.make_node("Twist", ["y"], ["t"], domain="my.company"))
    case.opset_import.append(onnx.helper.make_opsetid("my.company", 1))
    case.graph.output.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None))
    result = optimize(case, verify=False)
    assert operators(result.model) == {"Conv": 1, "Twist": 1}


def test_tensors_that_bodies_read_survive(rng: np.random.Generator) -> None:
    """The If reads `a` from outside: it counts as a reader of the convolution, and `a` keeps its values."""
    bodies = ", ".join(
        f"{name}_branch = {name}_ () => (float[] p) {{ i = Identity(a) \n p = {op}(i) }}"
        for name, op in (("then", "Tanh"), ("else", "Neg"))
    )
    norm = "a = Identity(c) \n y = BatchNormalization(a, s, s, s, s)"
    body = f"c = Conv(x, w) \n {norm} \n z = If(flag) <{bodies}>"
    weights = {"w": floats(rng, 4, 3, 3, 3), "s": np.full(4, 2, np.float32)}
    result = optimize(text_model("float[1,3,8,6] x, bool flag", "y, z", body, weights), seeds=4)
    assert not result.reverted
    assert operators(result.model) == {"Conv": 1, "BatchNormalization": 1, "If": 1}


def test_a_rewrite_that_fixes_the_batch_is_caught() -> None:
    """Right for every size at batch 1, wrong for others."""

    def first_only(graph: Graph, node: Node) -> int:
        if node.inputs[0].name == "first":
            return 0
        first = variable(graph, "first", np.dtype(np.float32))
        bounds = [
            constant(graph, name, np.array([value])) for name, value in (("from", 0), ("to", 1), ("on", 0))
        ]
        insert(graph, "Slice", [graph.inputs[0], *bounds], [first])
        node.inputs[0] = first
        return 1

    model = text_model("float[n,3,h,v] x", "y", "y = Relu(x)", {})
    assert optimize(model, [lying(first_only)], seeds=1).reverted
    fixed = text_model("float[1,3,h,v] x", "y", "y = Relu(x)", {})
    assert not optimize(fixed, [lying(first_only)], seeds=1).reverted


def test_models_of_the_first_opsets_are_left_alone_without_proof() -> None:
    model = text_model("float[2] x", "y", "y = Relu(x)", {})
    model.opset_import[0].version = 6
    assert "older" in optimize(model, verify=False).not_run


def test_metadata_and_opset_survive(rng: np.random.Generator) -> None:
    model = PASSES.get("fold-batchnorm").examples(rng)[0][0]
    model.metadata_props.add(key="author", value="someone")
    result = optimize(model)
    assert {entry.key: entry.value for entry in result.model.metadata_props} == {"author": "someone"}
    assert [entry.version for entry in result.model.opset_import] == [
        entry.version for entry in model.opset_import
    ]


def test_a_network_of_a_thousand_layers_does_not_recurse(rng: np.random.Generator) -> None:
    body = (
        "t0 = Neg(x) \n " + "".join(f"t{i + 1} = Tanh(t{i}) \n " for i in range(1500)) + "y = Identity(t1500)"
    )
    result = optimize(text_model("float[2] x", "y", body, {}), ["drop-identity"])
    assert len(result.model.graph.node) == 1501


def test_unknown_passes_are_named_with_a_hint(rng: np.random.Generator) -> None:
    with pytest.raises(UnknownNameError, match="fold-batchnrom") as error:
        optimize(conv_relu(rng), ["fold-batchnrom"])
    assert "fold-batchnorm" in error.value.hint


def test_skip_is_the_same_class_everywhere() -> None:
    from edgedeploy.export import graph_pass as base

    assert base.Skip is Skip
