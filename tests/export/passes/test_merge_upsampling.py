"""Transposed convolutions of windows side by side: which pairs become 1x1 convolutions, which must not."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.passes import merge_upsampling
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import dump, load
from tests.support.exports import exported

NAME = "merge-upsampling"
W = {
    "w": np.ones((24, 6, 2, 2), np.float32),
    "v": np.ones((6, 1, 2, 2), np.float32),
    "c": np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1),
    "k": np.ones((6, 1, 3, 3), np.float32),
    "l": np.ones((6, 1, 2, 3), np.float32),
    "g": np.ones((6, 2, 2, 2), np.float32),
    "many": np.ones((6, 24, 2, 2), np.float32),
}
UP = "ConvTranspose<strides=[2,2]>"


def rewritten(body: str) -> tuple[onnx.ModelProto, list[str]]:
    graph = load(text_model("float[1,24,h,v] x", "y", body, W))
    applied = PASSES.get(NAME).apply(graph)
    return dump(graph), [entry.reason for entry in applied.skipped]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"m = {UP}(x, w) \n y = ConvTranspose(m, v)", "not squares side by side"),
        (f"m = {UP}(x, w) \n y = {UP}(m, k)", "not squares side by side"),
        (f"m = {UP}(x, w) \n y = ConvTranspose<strides=[2,3]>(m, l)", "not squares side by side"),
        (f"m = {UP}(x, w) \n y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(m, v)", "pads, dilates"),
        (f"m = {UP}(x, w) \n y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(m, v)", "pads, dilates"),
        (f"m = {UP}(x, w) \n y = ConvTranspose<strides=[2,2], group=2>(m, g)", "has groups"),
        (f"m = {UP}(x, w) \n n = {UP}(m, v) \n r = ReduceMax(m) \n y = Add(n, r)", "2 readers"),
        (f"m = {UP}(x, w) \n r = Mul(m, c) \n y = {UP}(r, v)", "does not follow a transposed convolution"),
        (f"m = {UP}(x, w) \n r = Softmax<axis=1>(m) \n y = {UP}(r, v)", "does not follow"),
        (f"m = {UP}(x, w) \n y = {UP}(m, many)", "merged it would take"),
    ],
)
def test_left_alone(body: str, reason: str) -> None:
    changed, reasons = rewritten(body)
    assert "DepthToSpace" not in {node.op_type for node in changed.graph.node}
    assert any(reason in said for said in reasons), reasons


def test_the_head_of_dbnet_from_pytorch() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(
        nn.ConvTranspose2d(24, 12, 2, 2), nn.BatchNorm2d(12), nn.ReLU(), nn.ConvTranspose2d(12, 1, 2, 2)
    ).eval()
    x = torch.randn(1, 24, 6, 10)
    with torch.no_grad():
        for norm in (m for m in head if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean, norm.running_var = torch.randn(12), torch.rand(12) + 0.5
        exact = head(x).numpy()
    result = optimize(exported(head, x, "torchscript"))
    kinds = [node.op_type for node in result.model.graph.node]
    assert kinds == ["Conv", "Relu", "Conv", "DepthToSpace"]
    session = onnxruntime.InferenceSession(result.model.SerializeToString())
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert np.abs(got - exact).max() < 1e-5


def test_taps_in_another_order_are_caught(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    ours = merge_upsampling._taps
    monkeypatch.setattr(merge_upsampling, "_taps", lambda node: ours(node).swapaxes(2, 3))
    for model, _ in PASSES.get(NAME).examples(rng):
        assert Evaluator(model).inputs
        assert optimize(model, [NAME]).reverted
