"""Random inputs, and how a model is run on them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from edgedeploy.core.random_inputs import random_blocks, random_tensor
from edgedeploy.core.spec import TensorSpec
from edgedeploy.graphs.feeds import feed_sets, random_feeds
from edgedeploy.graphs.run import Evaluator, NotRunnable, open_session


def model(body: str, inputs: str = "float[n,3,h,w] x", output: str = "float[n,3,h,w] y") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : 20]> g ({inputs}) => ({output}) {{ {body} }}'
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"]
)
def test_every_type_is_drawn_in_its_own_range(dtype: str) -> None:
    x = random_tensor(dtype, (4000,), np.random.default_rng(0))
    assert x.dtype == dtype
    if x.dtype.kind == "f":
        assert abs(x.mean()) < 0.1
        assert x.std() == pytest.approx(1, abs=0.1)
    elif x.dtype.itemsize == 1 and x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        assert (x.min(), x.max()) == (info.min, info.max)
    else:
        assert set(x.tolist()) == ({False, True} if dtype == "bool" else set(range(5)))
    assert set(random_tensor("int64", (100,), np.random.default_rng(0), largest=1)) == {0, 1}
    assert random_tensor(dtype, (), np.random.default_rng(0)).shape == ()


def test_floats_are_drawn_within_a_range() -> None:
    x = random_tensor("float32", (4000,), np.random.default_rng(0), within=(2.0, 8.0))
    assert x.min() >= 2
    assert x.max() <= 8
    assert x.mean() == pytest.approx(5, abs=0.1)
    assert x.std() == pytest.approx(1, abs=0.1), "a range is what was measured, so its ends are rare"


@pytest.mark.parametrize("dtype", ["str", "bfloat16", "complex64"])
def test_what_is_no_number_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError):
        random_tensor(dtype, (2,), np.random.default_rng(0))
    with pytest.raises(NotRunnable, match="its inputs are"):
        random_feeds([TensorSpec(name="x", dtype=dtype, shape=(2,))], np.random.default_rng(0))


def test_blocks_are_of_one_value() -> None:
    blocks = random_blocks((1, 2, 12, 20), np.random.default_rng(0))
    assert blocks.shape == (1, 2, 12, 20)
    assert np.ptp(blocks[0, 0, :8, :8]) == 0
    assert len(np.unique(blocks)) == 2 * 2 * 3


def test_dimensions_of_one_name_get_one_size_and_batches_take_turns() -> None:
    evaluator = Evaluator(model("y = Add(x, z)", "float[n,3,h,w] x, float[n,3,h,w] z"))
    shapes = [feeds["x"].shape for feeds, _ in feed_sets(evaluator, 2)]
    assert shapes == [(1, 3, 64, 96), (2, 3, 128, 192), (1, 3, 256, 320)]
    for feeds, outputs in feed_sets(evaluator, 1):
        assert np.array_equal(outputs["y"], feeds["x"] + feeds["z"])


def test_sizes_that_the_model_refuses_are_passed_over() -> None:
    body = "s = Constant<value_ints = [1, 3, 784]>() \n y = Reshape(x, s)"
    runs = list(feed_sets(Evaluator(model(body, output="float[1,3,784] y")), 1))
    assert {feeds["x"].shape for feeds, _ in runs} == {(1, 3, 28, 28)}
    refused = model("s = Constant<value_ints = [1, 3, 7]>() \n y = Reshape(x, s)", output="float[1,3,7] y")
    with pytest.raises(NotRunnable):
        next(feed_sets(Evaluator(refused), 1))


def test_ranges_hold_for_their_inputs_alone() -> None:
    evaluator = Evaluator(model("y = Add(x, z)", "float[1,3,8,8] x, float[1,3,8,8] z", "float[1,3,8,8] y"))
    for feeds, _ in feed_sets(evaluator, 3, {"x": (0.0, 1.0)}):
        assert feeds["x"].min() >= 0
        assert feeds["x"].max() <= 1
        assert feeds["z"].min() < 0


def test_a_size_beyond_reason_is_refused_before_memory_is_asked_for() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1 << 40,))
    with pytest.raises(NotRunnable, match=r"1\.1e\+12 elements"):
        random_feeds([spec], np.random.default_rng(0))


def test_pairs_round_at_every_level() -> None:
    """Fused into INT8 kernels they would round in other places."""
    body = (
        "s = Constant<value_float = 0.1>() \n q = QuantizeLinear(x, s) \n d = DequantizeLinear(q, s) \n"
        "y = Relu(d)"
    )
    qdq = model(body, "float[1,3,4,4] x", "float[1,3,4,4] y")
    x = np.random.default_rng(0).uniform(0, 20, (1, 3, 4, 4)).astype(np.float32)
    for level in ("none", "basic", "all"):
        (y,) = open_session(qdq, level).run(None, {"x": x})
        assert np.allclose(y, np.rint(x / np.float32(0.1)) * np.float32(0.1), atol=1e-5)
    assert open_session(qdq.SerializeToString()).get_inputs()[0].name == "x"


def test_the_runtimes_own_reason_is_told_in_one_line() -> None:
    with pytest.raises(NotRunnable) as refused:
        Evaluator(model("y = NoSuchOperator(x)"))
    assert "NoSuchOperator" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(NotRunnable):
        Evaluator(model("y = Relu(x)"))({"x": np.zeros((1, 3, 2, 2), np.float64)})
