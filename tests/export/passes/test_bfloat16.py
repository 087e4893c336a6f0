"""Graphs in bfloat16, which numpy knows by ml_dtypes alone: passes rewrite them or say why not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.graphs.surgeon import dump, load


def in_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which float32 tensors are bfloat16."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
    return copy


@pytest.mark.parametrize("name", PASSES.names())
def test_no_pass_raises_on_bfloat16(name: str, rng: np.random.Generator) -> None:
    """Ten passes did: a tensor's bfloat16 is a number of ONNX, which is no dtype of numpy."""
    for model, options in PASSES.get(name).examples(rng):
        graph = load(in_bfloat16(model))
        PASSES.get(name).apply(graph, options)
        dump(graph)


def test_constants_that_follow_a_bfloat16_tensor_are_bfloat16(rng: np.random.Generator) -> None:
    merge = PASSES.get("merge-affine-chain")
    hits = 0
    for model, options in merge.examples(rng):
        before = in_bfloat16(model)
        graph = load(before)
        hits += merge.apply(graph, options).hits
        types = {tensor.data_type for tensor in dump(graph).graph.initializer}
        assert types <= {tensor.data_type for tensor in before.graph.initializer}
    assert hits
