"""Convolutions merged in parallel, in a row and as siblings: random geometry, refusals, broken formulas."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.match.kernels import Window
from edgedeploy.export.passes import merge_sibling_conv
from edgedeploy.export.prove.proof import output_difference
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import dump, load

many = settings(max_examples=60, deadline=None, derandomize=True)
IMAGE = "float[1,4,11,13] x"
pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
strides = st.tuples(st.integers(1, 2), st.integers(1, 2))
pads = st.lists(st.integers(0, 3), min_size=4, max_size=4)


def conv(name: str, x: str, w: str, *, pads: Any, dilation: Any, stride: Any = (1, 1), group: int = 1) -> str:
    attributes = (
        f"pads={list(pads)}, dilations={list(dilation)}, strides={list(stride)}, group={group}".replace(
            "(", "["
        )
    )
    return f"{name} = Conv<{attributes}>(x, {w}, {w}b) \n ".replace("(x,", f"({x},")


def run_pass(name: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int, list[str]]:
    graph = load(model)
    applied = PASSES.get(name).apply(graph)
    return dump(graph), applied.hits, [skipped.reason for skipped in applied.skipped]


def error(before: onnx.ModelProto, after: onnx.ModelProto, seed: int) -> float:
    feeds = {
        spec.name: np.random.default_rng(seed).standard_normal(spec.shape).astype(np.float32)
        for spec in Evaluator(before).inputs
    }
    return output_difference(Evaluator(before)(feeds), Evaluator(after)(feeds)).max_rel


@given(
    sizes=st.tuples(pair, pair), dilations=st.tuples(pair, pair), stride=strides, begin=st.tuples(pair, pair),
    groups=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])), spare=pair,
    seed=st.integers(0, 99),
)  # fmt: skip
@many
def test_parallel_kernels_of_any_geometry(
    sizes: Any, dilations: Any, stride: Any, begin: Any, groups: Any, spare: Any, seed: int
) -> None:
    """Padding after is chosen so that both results have one size; whatever is merged computes the same."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    body = ""
    for index, (size, dilation, start, group) in enumerate(zip(sizes, dilations, begin, groups, strict=True)):
        reach = [(k - 1) * d - b for k, d, b in zip(size, dilation, start, strict=True)]
        end = [s + r for s, r in zip(spare, reach, strict=True)]
        assume(min(end) >= 0)
        weights[f"w{index}"] = floats(rng, 4, 4 // group, *size)
        weights[f"w{index}b"] = floats(rng, 4)
        body += conv(
            f"c{index}", "x", f"w{index}", pads=[*start, *end], dilation=dilation, stride=stride, group=group
        )
    model = text_model(IMAGE, "y", body + "y = Sub(c0, c1)", weights)
    after, hits, reasons = run_pass("merge-parallel-conv", model)
    if hits:
        assert [node.op_type for node in after.graph.node] == ["Conv"]
        assert error(model, after, seed) <= 1e-5
    else:
        assert "multiplications" in reasons[0]


@given(
    sizes=st.tuples(pair, pair), dilations=st.tuples(pair, pair), stride=st.tuples(strides, strides),
    edges=st.tuples(pads, pads), groups=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2, 4])),
    biased=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(many, max_examples=150)
def test_sequential_kernels_of_any_geometry(
    sizes: Any, dilations: Any, stride: Any, edges: Any, groups: Any, biased: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    middle = 64  # so many that merging hardly ever costs more
    weights = {
        "w0": floats(rng, middle, 4 // groups[0], *sizes[0]),
        "w1": floats(rng, 4, middle // groups[1], *sizes[1]),
        "w0b": floats(rng, middle) * np.float32(biased),
        "w1b": floats(rng, 4),
    }
    body = conv("m", "x", "w0", pads=edges[0], dilation=dilations[0], stride=stride[0], group=groups[0])
    body += conv("y", "m", "w1", pads=edges[1], dilation=dilations[1], stride=stride[1], group=groups[1])
    model = text_model(IMAGE, "y", body, weights)
    after, hits, reasons = run_pass("merge-sequential-conv", model)
    exact = not any(edges[1]) or (not biased and sizes[0] == (1, 1))
    if hits:
        assert exact
        assert error(model, after, seed) <= 1e-5
    elif exact:
        assert "multiplications" in reasons[-1] or "has a stride" in reasons[-1]
    else:
        assert "pads with zeros" in reasons[-1] or "has a stride" in reasons[-1]


ONES = {
    "w": (4, 4, 3, 3),
    "p": (4, 4, 1, 1),
    "k": (4,),
    "v": (8, 4, 3, 3),
    "g": (4, 2, 3, 3),
    "d": (4, 1, 3, 3),
}
W = {name: np.ones(shape, np.float32) for name, shape in ONES.items()}
PARALLEL, ROW, SIBLING = "merge-parallel-conv", "merge-sequential-conv", "merge-sibling-conv"
FULL = "m = Conv<pads=[1,1,1,1]>(x, w) \n "
WIDE = "n = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)"
DEPTHWISE = "m = Conv<pads=[1,1,1,1], group=4>(x, d)"
SHIFTED = "m = Conv<pads=[1,1,0,0]>(x, w) \n n = Conv<pads=[0,0,1,1]>(x, v)"
GROUPED = "m = Conv<group=2>(x, g) \n n = Conv<group=2>(x, g)"
POOL = "n = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]{}>(x)"
ROUNDED = POOL.format(", ceil_mode=1")
REFUSED = [
    (PARALLEL, FULL + "n = Relu(x) \n y = Add(m, n)", "do not come from one tensor"),
    (PARALLEL, FULL + "n = Conv(x, p) \n q = Add(m, n) \n y = Mul(q, m)", "do not come from one"),
    (PARALLEL, FULL + f"{WIDE} \n y = Add(m, n)", "instead of"),
    (PARALLEL, f"{DEPTHWISE} \n n = Conv(x, p) \n y = Add(m, n)", "instead of"),
    (PARALLEL, FULL + f"{POOL.format('')} \n y = Add(m, n)", "fewer pixels at the border"),
    (PARALLEL, FULL + f"{ROUNDED} \n y = Add(m, n)", "rounds its size up"),
    (PARALLEL, 'm = Conv<auto_pad="SAME_UPPER">(x, w) \n y = Add(m, x)', "auto_pad"),
    (PARALLEL, FULL + "u = Abs(p) \n n = Conv(x, u) \n y = Add(m, n)", "do not come from one tensor"),
    (PARALLEL, "m = Conv(x, w) \n n = Conv<strides=[12,14]>(x, p) \n y = Add(m, n)", "the strides differ"),
    (ROW, FULL + "y = Conv<pads=[1,1,1,1]>(m, w)", "pads with zeros"),
    (ROW, "m = Conv(x, p, k) \n y = Conv<pads=[1,1,1,1]>(m, w)", "pads with zeros"),
    (ROW, FULL + "y = Conv(m, w)", "multiplications per place instead of"),
    (ROW, FULL + "n = Conv(m, p) \n y = Sub(n, m)", "has 2 readers"),
    (ROW, FULL + "r = Relu(m) \n y = Conv(r, w)", "does not follow a convolution"),
    (ROW, "m = Conv<strides=[2,2]>(x, p) \n y = Conv(m, w)", "has a stride"),
    (ROW, FULL + "u = Abs(p) \n y = Conv(m, u)", "not a constant"),
    (SIBLING, FULL + "n = Conv(x, p) \n y = Concat<axis=1>(m, n)", "stand side by side"),
    (SIBLING, FULL + "y = Concat<axis=0>(m, m)", "no operand"),
    (SIBLING, f"{GROUPED} \n y = Concat<axis=1>(m, n)", "grouped"),
    (SIBLING, f"{SHIFTED} \n y = Concat<axis=1>(m, n)", "stride, dilation or padding"),
    (SIBLING, FULL + "n = Conv<pads=[1,1,1,1]>(x, w) \n y = Concat<axis=2>(m, n)", "concatenate channels"),
    (SIBLING, FULL + "r = Relu(m) \n y = Concat<axis=1>(r, x)", "no operand is a convolution"),
]


@pytest.mark.parametrize(("name", "body", "reason"), REFUSED)
def test_what_would_change_or_cost_more_is_left_with_a_reason(name: str, body: str, reason: str) -> None:
    model = text_model(IMAGE, "y", body, W)
    after, hits, reasons = run_pass(name, model)
    assert hits == 0
    assert any(reason in entry for entry in reasons), reasons
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in model.graph.node]


def test_a_norm_that_others_read_joins_and_stays(rng: np.random.Generator) -> None:
    body = (
        "n = BatchNormalization(x, k, k, k, k) \n m = Conv(n, p) \n o = Conv(x, q) \n a = Add(m, o) \n "
        "y = Add(a, n) \n z = Relu(n)"
    )
    weights = {"p": floats(rng, 4, 4, 1, 1), "q": floats(rng, 4, 4, 1, 1), "k": W["k"] * 2}
    model = text_model(IMAGE, "y, z", body, weights)
    result = optimize(model, ["merge-parallel-conv"])
    assert not result.reverted
    assert Counter(node.op_type for node in result.model.graph.node) == {
        "Conv": 1, "BatchNormalization": 1, "Relu": 1,
    }  # fmt: skip


def test_a_branch_that_is_an_output_too_stays(rng: np.random.Generator) -> None:
    body = "m = Conv<pads=[1,1,1,1]>(x, w) \n z = Conv(x, p) \n y = Add(m, z)"
    model = text_model(IMAGE, "y, z", body, {"w": floats(rng, 4, 4, 3, 3), "p": floats(rng, 4, 4, 1, 1)})
    assert run_pass("merge-parallel-conv", model)[1] == 0


def test_a_kernel_that_would_fill_the_memory_is_refused_before_it_is_made() -> None:
    far = 10**7
    body = f"m = Conv<pads=[{far},{far},{far},{far}], dilations=[{far},{far}]>(x, w) \n y = Add(m, z)"
    body = body.replace("Add(m, z)", "Add(m, n)").replace("\n y", "\n n = Conv<pads=[1,1,1,1]>(x, w) \n y")
    _, hits, reasons = run_pass("merge-parallel-conv", text_model(IMAGE, "y", body, W))
    assert hits == 0
    assert "multiplications" in reasons[0]


def any_border(*_: Any) -> bool:
    return False


def stacked_backwards(arrays: list[np.ndarray]) -> np.ndarray:
    return np.vstack(arrays[::-1]) if arrays[0].ndim > 1 else np.hstack(arrays[::-1])


def test_siblings_in_the_wrong_order_are_caught(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    examples = PASSES.get("merge-sibling-conv").examples(rng)
    monkeypatch.setattr(merge_sibling_conv.np, "concatenate", stacked_backwards)
    applied = [run_pass("merge-sibling-conv", model) for model, _ in examples]
    monkeypatch.undo()
    assert all(
        error(model, after, 0) > 1e-3
        for (model, _), (after, _, _) in zip(examples, applied, strict=True)
        if Evaluator(model).inputs[0].is_static
    )


def test_padding_of_biased_results_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Without the check of the border a padded second convolution comes out wrong."""
    body = "m = Conv(x, p, k) \n y = Conv<pads=[1,1,1,1]>(m, w)"
    weights = {"p": floats(rng, 64, 4, 1, 1), "w": floats(rng, 4, 64, 3, 3), "k": floats(rng, 64)}
    monkeypatch.setattr(Window, "is_padded", property(any_border))
    assert optimize(text_model(IMAGE, "y", body, weights), ["merge-sequential-conv"]).reverted
