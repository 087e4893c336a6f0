"""Scales and shifts by constants: random chains and sums of them, refusals, real networks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.export.capture.exporters import export_dynamo
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import dump, is_constant, load
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.layers.norm import RepBN
from tests.support.branched_nets import trained

SHAPE = (2, 4, 3, 5)
CHAIN, SUM, NORM = "merge-affine-chain", "merge-parallel-affine", "fold-norm-affine"
operator = st.sampled_from(["Mul", "Add", "Sub", "Div", "flipped Sub", "BatchNormalization"])
constant_shape = st.sampled_from([(), (1,), (4, 1, 1), (1, 4, 1, 1), (5,), (3, 5)])
row = st.lists(st.tuples(operator, constant_shape), min_size=0, max_size=5)


def run_pass(name: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[str]]:
    graph = load(model)
    applied = PASSES.get(name).apply(graph)
    return dump(graph), applied.hits, [skipped.reason for skipped in applied.skipped]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def write_row(
    name: str, steps: Any, rng: np.random.Generator, weights: dict[str, np.ndarray]
) -> tuple[str, str]:
    """(body, last tensor) of a row of operators with constants on x; values stay near 1."""
    body, x = "", "x"
    for number, (op, shape) in enumerate(steps):
        y, c = f"{name}{number}", f"{name}c{number}"
        if op == "BatchNormalization":
            for key in "stm":
                weights[c + key] = rng.uniform(0.5, 1.5, 4).astype(np.float32)
            body += f"{y} = BatchNormalization({x}, {c}s, {c}t, {c}m, {c}s) \n "
        else:
            weights[c] = (rng.uniform(0.5, 1.5, shape) * rng.choice((-1, 1))).astype(np.float32)
            operands = f"{c}, {x}" if op == "flipped Sub" else f"{x}, {c}"
            body += f"{y} = {op.split()[-1]}({operands}) \n "
        x = y
    return body, x


def error(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> float:
    """Relative to the largest value anywhere on the way, which sums may cancel."""
    x = {"x": np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)}
    (a,), (b,) = (Evaluator(model)(x).values() for model in (before, after))
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))


@given(steps=row.filter(lambda steps: len(steps) > 1), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_rows_of_constants_never_get_longer(steps: Any, seed: int) -> None:
    weights: dict[str, np.ndarray] = {}
    body, last = write_row("a", steps, np.random.default_rng(seed), weights)
    model = text_model(f"float{list(SHAPE)} x", "y", f"{body} y = Tanh({last})", weights)
    after, hits, _ = run_pass(CHAIN, model)
    assert error(model, after, seed) <= 1e-5
    assert (len(after.graph.node) < len(model.graph.node)) == bool(hits)
    on_channels = all(
        op == "BatchNormalization" or shape in [(), (1,), (4, 1, 1), (1, 4, 1, 1)] for op, shape in steps
    )
    if on_channels:
        assert len(after.graph.node) <= (2 if any(op == "BatchNormalization" for op, _ in steps) else 3)


@given(left=row, right=row, op=st.sampled_from(["Add", "Sub"]), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_sums_of_rows_of_one_tensor(left: Any, right: Any, op: str, seed: int) -> None:
    weights: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(seed)
    one, first = write_row("a", left, rng, weights)
    two, second = write_row("b", right, rng, weights)
    text = f"{one} {two} s = {op}({first}, {second}) \n y = Tanh(s)"
    model = text_model(f"float{list(SHAPE)} x", "y", text, weights)
    after, hits, _ = run_pass(SUM, model)
    assert error(model, after, seed) <= 1e-4  # what the two cancel is lost in the sum as it stood
    assert (len(after.graph.node) < len(model.graph.node)) == bool(hits)


W = {
    "s": np.full(4, 2, np.float32),
    "c": np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1),
    "h": np.arange(1, 4, dtype=np.float32).reshape(3, 1),
    "k": np.float32(2),
    "z": np.zeros(1, np.float32),
    "w5": np.ones(5, np.float32),
    "huge": np.float32(3e38),
    "bb": np.array([1, 2], np.float32).reshape(2, 1, 1, 1),
    "v5": np.arange(1, 6, dtype=np.float32),
}
BATCHNORM = "n = BatchNormalization(x, s, s, s, s)"
LAYERNORM = "n = LayerNormalization(x, w5)"
REFUSED = [
    (CHAIN, "a = Mul(x, c) \n y = Add(a, k)", "no fewer operators"),
    (
        CHAIN,
        "a = Mul(x, c) \n b = Mul(a, k) \n q = Add(b, a) \n y = Tanh(q)",
        "that it can join",
    ),
    (CHAIN, "a = Mul(x, c) \n y = Mul(a, h)", "that it can join"),
    (CHAIN, "a = Mul(x, huge) \n y = Mul(a, huge)", "not be finite"),
    (CHAIN, "a = Add(x, c) \n y = Div(a, z)", ""),
    (SUM, f"{BATCHNORM} \n t = Tanh(x) \n y = Add(n, t)", "not scales and shifts of one tensor"),
    (SUM, "y = Add(x, x)", "as many operators"),
    (SUM, "a = Mul(x, c) \n b = Mul(x, h) \n y = Add(a, b)", ""),
    (NORM, f"{LAYERNORM} \n y = Relu(n)", "taken from every input"),
    (NORM, f"{LAYERNORM} \n a = Mul(n, k) \n y = Add(a, n)", "readers"),
    (NORM, f"{LAYERNORM} \n y = Mul(n, c)", "no room for"),
    (NORM, f"{LAYERNORM} \n y = Mul(n, bb)", "no room for"),
    (NORM, "n = InstanceNormalization(x, s, s) \n y = Mul(n, v5)", "vary along axis 1 alone"),
]


@pytest.mark.parametrize(("name", "body", "reason"), REFUSED)
def test_what_would_grow_or_change_is_left_with_a_reason(name: str, body: str, reason: str) -> None:
    model = text_model(f"float{list(SHAPE)} x", "y", body, W)
    after, hits, reasons = run_pass(name, model)
    assert hits == 0
    assert any(reason in entry for entry in reasons) or not reason, reasons
    assert operators(after) == operators(model)


OLD_MEAN = "ReduceMean<axes=[1,2,3]>"
NORMALIZED = {
    13: f"m = {OLD_MEAN}(w) \n c = Sub(w, m) \n q = Mul(c, c) \n v = {OLD_MEAN}(q)",
    17: f"m = {OLD_MEAN}(w) \n c = Sub(w, m) \n q = Pow(c, two) \n v = {OLD_MEAN}(q)",
    18: "m = ReduceMean(w, axes) \n c = Sub(w, m) \n q = Pow(c, two) \n v = ReduceMean(q, axes)",
    20: "m = ReduceMean(w, axes) \n c = Sub(w, m) \n q = Mul(c, c) \n v = ReduceMean(q, axes)",
}
UNIT = {
    13: "n = ReduceL2<axes=[1,2,3]>(w) \n d = Div(w, n) \n u = Mul(d, g)",
    18: "n = ReduceL2(w, axes) \n d = Div(w, n) \n u = Mul(d, g)",
}
STANDARDIZED = {
    opset: f"{text} \n e = Add(v, eps) \n r = Sqrt(e) \n u = Div(c, r)" for opset, text in NORMALIZED.items()
}


@pytest.mark.parametrize(("opset", "text"), [*STANDARDIZED.items(), *UNIT.items()])
def test_weights_normalized_in_the_graph_are_baked(opset: int, text: str, rng: np.random.Generator) -> None:
    """Weight Standardization (mean and variance per filter) and weight normalization (g w / |w|)."""
    weights = {
        "w": floats(rng, 6, 4, 3, 3),
        "g": floats(rng, 6, 1, 1, 1),
        "two": np.float32(2),
        "axes": np.array([1, 2, 3]),
        "eps": np.float32(1e-5),
    }
    model = text_model("float[1,4,9,7] x", "y", f"{text} \n y = Conv(x, u)", weights, opset=opset)
    result = optimize(model)
    assert not result.reverted
    assert operators(result.model) == {"Conv": 1}


class ScaledNorm(torch.nn.Module):
    """LayerNorm Scaling: each norm times 1/sqrt(its layer's number)."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.norm, self.layer = torch.nn.LayerNorm(8), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(x) / self.layer**0.5
        return out


def test_the_scale_of_a_layer_joins_its_norm() -> None:
    network = torch.nn.Sequential(ScaledNorm(3), torch.nn.Tanh(), ScaledNorm(7)).eval()
    model = export_dynamo(network, torch.randn(2, 5, 8), "x", ["y"], 20, False, 1)
    result = optimize(model)
    assert operators(result.model) == {"LayerNormalization": 2, "Tanh": 1}


@pytest.mark.parametrize("name", ["slab_deit_micro"])
def test_repbn_of_the_zoo_in_training_form_is_one_norm_each(name: str) -> None:
    """BN(x) + alpha*x: what is left of each is at most the BatchNormalization, on the graph alone."""
    torch.manual_seed(0)
    network = trained(create_model(name), 0)
    model = export_dynamo(network, torch.randn(MODELS.get(name).input_shape), "x", ["y"], 20, False, 1)
    before = operators(model)
    result = optimize(model, ["fold-constants", "drop-identity", "drop-neutral", SUM])
    assert not result.reverted
    after = operators(result.model)
    norms = sum(isinstance(module, RepBN) for module in network.modules())
    assert result.steps[-1].hits == norms > 0
    assert before["BatchNormalization"] - after["BatchNormalization"] == norms
    assert before["Transpose"] - after["Transpose"] >= 2 * norms - 1
    assert sum(after.values()) < sum(before.values())


@pytest.mark.parametrize("body", ["c = Conv(x, w) \n y = {}", "c = {} \n y = Conv(c, w)"])
def test_weights_tell_the_rank_that_shape_inference_does_not(body: str, rng: np.random.Generator) -> None:
    norm = "BatchNormalization(c, s, s, s, s)" if "y = {}" in body else "BatchNormalization(x, s, s, s, s)"
    weights = {"w": floats(rng, 4, 4, 1, 1), "s": W["s"]}
    graph = load(text_model("float[2,4,3,5] x", "y", body.format(norm), weights))
    for tensor in (tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs)):
        if not is_constant(tensor):
            tensor.shape = None
    assert PASSES.get("fold-batchnorm").apply(graph).hits == 1
