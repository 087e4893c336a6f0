"""Casts, Slices and Concats in a row: one of them where that is exact, all of them where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.export.passes.merge_casts import _KINDS, holds
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.run import Evaluator

SIZE = 7
FAR = 2**63 - 1
few = settings(max_examples=60, deadline=None, derandomize=True)
places = st.one_of(st.integers(-SIZE - 2, SIZE + 2), st.just(FAR))
slices = st.tuples(places, places, st.integers(1, 3))


def constants(*of: tuple[int, int, int]) -> dict[str, np.ndarray]:
    names = ("from", "to", "by")
    return {
        f"{name}{index}": np.array([value])
        for index, one in enumerate(of)
        for name, value in zip(names, one, strict=True)
    }


def kinds(result: OptimizeResult) -> list[str]:
    return [node.op_type for node in result.model.graph.node]


def require_same(model: onnx.ModelProto, changed: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    for name, expected in Evaluator(model)(feeds).items():
        np.testing.assert_array_equal(Evaluator(changed)(feeds)[name], expected)


@given(first=slices, then=slices, known=st.booleans())
@few
def test_a_slice_of_a_slice_takes_the_same(
    first: tuple[int, int, int], then: tuple[int, int, int], known: bool
) -> None:
    """Ranges of any kind: from the end, beyond it, empty; on an axis whose size is known or not."""
    body = "a = Slice(x, from0, to0, axis, by0) \n b = Slice(a, from1, to1, axis, by1) \n y = Relu(b)"
    w = {**constants(first, then), "axis": np.array([1])}
    model = text_model(f"float[2,{SIZE if known else 'v'}] x", "y", body, w)
    changed = optimize(model, ["merge-slices"], verify=False).model
    values = np.arange(2 * SIZE, dtype=np.float32).reshape(2, SIZE)
    require_same(model, changed, {"x": values})
    if known:
        assert [node.op_type for node in changed.graph.node] == ["Slice", "Relu"]


@given(of=slices, first=st.integers(1, 3))
@few
def test_a_slice_of_pieces_takes_the_same(of: tuple[int, int, int], first: int) -> None:
    w = {**constants(of), "axis": np.array([-1])}
    inputs = f"float[2,{first}] p, float[2,{SIZE - first}] q"
    body = "a = Concat<axis=1>(p, q) \n b = Slice(a, from0, to0, axis, by0) \n y = Relu(b)"
    model = text_model(inputs, "y", body, w)
    changed = optimize(model, ["slice-before-concat"], verify=False).model
    values = np.arange(2 * SIZE, dtype=np.float32).reshape(2, SIZE)
    require_same(model, changed, {"p": values[:, :first], "q": values[:, first:]})


@pytest.mark.parametrize("narrow", _KINDS)
@pytest.mark.parametrize("wide", _KINDS)
def test_a_type_holds_another_if_all_its_values_come_back(narrow: str, wide: str) -> None:
    """Every value of 16 bits or fewer; of wider ones the ends and all powers of two beside one."""
    kind = np.dtype(narrow)
    if narrow == "float16":
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        values = values[np.isfinite(values)]
    elif kind.kind == "f":
        bits = 24 if narrow == "float32" else 53
        values = np.array([1 + 2.0 ** (1 - bits), np.finfo(kind).max, np.finfo(kind).tiny, -3.0], kind)
    elif narrow == "bool":
        values = np.array([False, True])
    else:
        info = np.iinfo(kind)
        odd = [2**k + 1 for k in range(kind.itemsize * 8 - 2)]
        values = np.array([info.min, info.max, *odd], kind)
    with np.errstate(all="ignore"):
        there = values.astype(wide)
        back = there.astype(narrow)
    # Whatever numpy does with values out of range, a type of other size or sign cannot have held them all.
    exact = bool(np.array_equal(back, values)) and not _wraps(narrow, wide)
    assert holds(wide, narrow) == exact


def _wraps(narrow: str, wide: str) -> bool:
    """Whether values come back only because they wrap or saturate both ways."""
    small, large = np.dtype(narrow), np.dtype(wide)
    if "f" in (small.kind, large.kind):
        return small.kind == "f" != large.kind or (large.kind == "f" and _rounds_to_limit(narrow, wide))
    if large.kind == "b" or small.kind == "b":
        return wide == "bool" != narrow
    return np.iinfo(large).min > np.iinfo(small).min or np.iinfo(large).max < np.iinfo(small).max


def _rounds_to_limit(narrow: str, wide: str) -> bool:
    kind = np.dtype(narrow)
    digits = {"float16": 11, "float32": 24, "float64": 53}[wide]
    return kind.kind in "iu" and kind.itemsize * 8 - (kind.kind == "i") > digits


@pytest.mark.parametrize(
    ("kind", "middle", "last", "left"),
    [
        ("float", 10, 1, ["Cast", "Cast"]),  # through float16: a rounding
        ("int32", 1, 6, ["Cast", "Cast"]),  # through float32: 24 bits
        ("int64", 11, 7, ["Cast", "Cast"]),  # through float64: 53 bits
        ("int32", 3, 6, ["Cast", "Cast"]),  # through int8: a wrap
        ("float16", 1, 10, ["Identity"]),
        ("int8", 10, 3, ["Identity"]),
    ],
)
def test_casts_that_lose_something_stay(kind: str, middle: int, last: int, left: list[str]) -> None:
    model = text_model(f"{kind}[2,3] x", "y", f"a = Cast<to={middle}>(x) \n y = Cast<to={last}>(a)", {})
    assert kinds(optimize(model, ["merge-casts"])) == left


def test_what_others_read_stays(rng: np.random.Generator) -> None:
    w = {"one": np.array([1]), "three": np.array([3]), "axis": np.array([1])}
    body = "a = Slice(x, one, three, axis) \n b = Slice(a, one, three, axis) \n y = Relu(b) \n z = Exp(a)"
    two = text_model("float[2,7] x", "y, z", body, w)
    result = optimize(two, ["merge-slices"])
    assert not result.steps
    assert "read elsewhere too" in result.skipped[0][1].reason
    joined = "a = Concat<axis=1>(x, x) \n y = Concat<axis=0>(a, a) \n z = Exp(a)"
    result = optimize(text_model("float[2,7] x", "y, z", joined, {}), ["merge-concats"])
    assert not result.steps


def test_pieces_of_unknown_size_stay() -> None:
    w = {"one": np.array([1]), "three": np.array([3]), "axis": np.array([1])}
    body = "a = Concat<axis=1>(x, x) \n y = Slice(a, one, three, axis)"
    result = optimize(text_model("float[2,v] x", "y", body, w), ["slice-before-concat"])
    assert not result.steps
    assert result.skipped[0][1].reason == "the sizes of the pieces are not known"
