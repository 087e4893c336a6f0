"""Another opset computes the same numbers, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from edgedeploy.calibration.place.placement import prepared
from edgedeploy.calibration.weight_only import weight_only
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.parity import difference
from edgedeploy.graphs.opset import NotConvertible, convert, converted, opset_of
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import Skip, load

X = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 10), np.float32)}


def one_node(op: str, opset: int, *extra: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    names = [f"c{i}" for i in range(len(extra))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in zip(names, extra, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.7, 1.6)])
def test_resizing_of_old_opsets_keeps_its_coordinates(
    op: str, opset: int, mode: str, scale: tuple[float, float]
) -> None:
    model = one_node(op, opset, np.array([1, 1, *scale], np.float32), mode=mode)
    before = model.SerializeToString()
    for made in (converted(model, 19), prepared(model)[0]):
        assert opset_of(made) == 19
        assert difference(Evaluator(model)(X), Evaluator(made)(X)).max_rel == 0
    assert model.SerializeToString() == before
    graph = load(model)
    convert(graph, 19)  # as the pass convert-opset does
    assert graph.opset == 19


def test_a_conversion_that_changes_numbers_is_refused() -> None:
    """Hardmax before 13 took all axes behind `axis` as one: the converter forgets it."""
    model = one_node("Hardmax", 11)
    wrong = version_converter.convert_version(model, 19)
    assert difference(Evaluator(model)(X), Evaluator(wrong)(X)).max_rel == 1, "onnx was mended"
    with pytest.raises(NotConvertible, match="changes what the model computes"):
        converted(model, 19)
    with pytest.raises(CalibrationError, match="opset 11 cannot be converted to 19") as refused:
        prepared(model)
    assert "capture.opset" in refused.value.hint
    with pytest.raises(CalibrationError, match="opset 11 cannot be raised to 21"):
        weight_only(with_product(model), lambda: iter([X]), smallest=1)


def with_product(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, and a MatMul that weight-only quantization wants."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.node.append(helper.make_node("MatMul", ["y", "w"], ["z"]))
    result.graph.initializer.append(numpy_helper.from_array(np.ones((10, 4), np.float32), "w"))
    result.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return result


def test_real_inputs_show_what_random_ones_do_not_reach() -> None:
    """Hardmax counts only where an input is above 100."""
    model = one_node("Hardmax", 11, np.float32(100))
    model.graph.node[0].input[:] = ["x"]
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Greater", ["x", "c0"], ["g"]))
    model.graph.node.append(helper.make_node("Where", ["g", "h", "x"], ["y"]))
    assert opset_of(converted(model, 19, [X])) == 19
    with pytest.raises(NotConvertible, match="changes what the model computes"):
        converted(model, 19, [{"x": X["x"] * 100}])


def test_what_the_converter_has_no_adapter_for_is_refused() -> None:
    model = one_node("Gelu", 20)
    with pytest.raises(NotConvertible, match="converter refuses"):
        converted(model, 17)
    with pytest.raises(Skip, match="converter refuses"):
        convert(load(model), 17)


def test_metadata_is_kept_and_models_that_do_not_run_are_converted_without_proof() -> None:
    model = one_node("Relu", 11)
    model.metadata_props.add(key="note", value="kept")
    assert [entry.value for entry in converted(model, 19).metadata_props] == ["kept"]
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    assert opset_of(converted(model, 19)) == 19
