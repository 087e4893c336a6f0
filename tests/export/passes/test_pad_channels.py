"""Which channels may be padded, and what stands in the way of the others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgedeploy.export.passes.pad_channels import PadOptions
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator

IMAGE = "float[n,3,h,v] x"


def padded(model: onnx.ModelProto, options: PadOptions | None = None) -> OptimizeResult:
    return optimize(model, ["pad-channels"], options={"pad-channels": options or PadOptions(8, 2.0)})


def weights_of(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "a": floats(rng, 6, 3, 3, 3), "c": floats(rng, 4, 6, 3, 3), "e": floats(rng, 6, 6, 3, 3),
        "g": floats(rng, 6, 3, 1, 1), "k": floats(rng, 6, 1, 1), "map": floats(rng, 1, 6, 4, 1),
        "two": floats(rng, 4, 12, 1, 1), "dense": floats(rng, 6, 10),
    }  # fmt: skip


def shapes(model: onnx.ModelProto) -> list[list[int]]:
    """Of the weights of convolutions, in order."""
    known = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [known[node.input[1]] for node in model.graph.node if "Conv" in node.op_type]


def test_weights_grow_and_nothing_else_changes(rng: np.random.Generator) -> None:
    model = text_model(IMAGE, "y", "m = Conv(x, a) \n r = Mul(m, k) \n y = Conv(r, c)", weights_of(rng))
    result = padded(model)
    assert [(step.name, step.hits) for step in result.steps] == [("pad-channels", 1)]
    assert shapes(result.model) == [[8, 3, 3, 3], [4, 8, 3, 3]]
    before, after = Evaluator(model), Evaluator(result.model)
    for feeds, expected in feed_sets(before, 2):
        np.testing.assert_allclose(after(feeds)["y"], expected["y"], rtol=1e-6, atol=1e-6)


def test_a_residual_axis_grows_as_one_or_not_at_all(rng: np.random.Generator) -> None:
    row = "m = Conv<pads=[1,1,1,1]>(x, a) \n i = Conv<pads=[1,1,1,1]>(m, e) \n s = Add(i, m) \n "
    open_end, closed = row + "y = Relu(s)", row + "r = Relu(s) \n y = Conv(r, c)"
    assert shapes(padded(text_model(IMAGE, "y", closed, weights_of(rng))).model) == [
        [8, 3, 3, 3], [8, 8, 3, 3], [4, 8, 3, 3],
    ]  # fmt: skip
    left = padded(text_model(IMAGE, "y", open_end, weights_of(rng)))
    assert not left.steps
    assert {entry.reason for _, entry in left.skipped} == {
        "its channels are those of 'y', an input or output"
    }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "m = Conv(x, a) \n s = Softmax<axis=1>(m) \n y = Conv(s, c)",
            "Softmax 'Softmax_1' may mix channels",
        ),
        ("m = Conv(x, a) \n s = Concat<axis=1>(m, m) \n y = Conv(s, two)", "may mix channels"),
        ("m = Conv(x, a) \n s = Conv<group=2>(m, g) \n y = Conv(s, c)", "has 2 groups"),
        ("m = Conv(x, a) \n q = Log(m) \n y = Conv(q, c)", "may mix channels"),  # not finite at 0
        ("m = Conv(x, a) \n r = Reciprocal(m) \n y = Conv(r, c)", "may mix channels"),
    ],
)
def test_what_mixes_channels_is_named(body: str, reason: str, rng: np.random.Generator) -> None:
    result = padded(text_model(IMAGE, "y", body, weights_of(rng)))
    assert not result.steps
    assert any(reason in entry.reason for _, entry in result.skipped), result.skipped


def test_constants_that_vary_over_places_grow_on_their_channel_axis(rng: np.random.Generator) -> None:
    body = "m = Conv<pads=[1,1,1,1]>(x, a) \n s = Add(m, map) \n y = Conv(s, c)"
    result = padded(text_model("float[n,3,4,v] x", "y", body, weights_of(rng)))
    assert [step.error is not None and step.error <= 1e-6 for step in result.steps] == [True]
    assert [8, 4, 1] in [list(tensor.dims)[1:] for tensor in result.model.graph.initializer]


def test_too_much_work_is_not_worth_it(rng: np.random.Generator) -> None:
    model = text_model(IMAGE, "y", "m = Conv(x, a) \n y = Conv(m, c)", weights_of(rng))
    result = padded(model, PadOptions(32))
    assert not result.steps
    assert "32 channels instead of 6 are 5.33 times the work" in {entry.reason for _, entry in result.skipped}


def test_variance_is_not_padded_with_zeros(rng: np.random.Generator) -> None:
    """0 / sqrt(0 + 0) is no number, and no number times 0 is none either."""
    w = {**weights_of(rng), "s": np.ones(6, np.float32)}
    norm = "n1 = BatchNormalization<epsilon=0.0>(m, s, s, s, s)".replace("n1", "norm")
    result = padded(text_model(IMAGE, "y", f"m = Conv(x, a) \n {norm} \n y = Conv(norm, c)", w))
    assert [step.name for step in result.steps] == ["pad-channels"]
    assert not result.offences
