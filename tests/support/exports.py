"""Networks exported in training form, and what the passes make of them."""

from __future__ import annotations

from collections import Counter

import onnx
import torch
from torch import nn

from edgedeploy.export.capture.exporters import export_dynamo, export_torchscript
from edgedeploy.export.runner import OptimizeResult
from edgedeploy.graphs.run import Evaluator
from tests.support.branched_nets import CHANNELS

IMAGE, TOKENS = (1, CHANNELS, 17, 22), (2, 5, CHANNELS)


EXPORTERS = ("dynamo", "torchscript")


def exported(network: nn.Module, example: torch.Tensor, exporter: str, opset: int = 20) -> onnx.ModelProto:
    if exporter == "dynamo":
        return export_dynamo(network, example, "x", ["y"], opset, False, 1)
    return export_torchscript(network, example, "x", ["y"], opset, False)


def operators(result: OptimizeResult) -> dict[str, int]:
    return dict(Counter(node.op_type for node in result.model.graph.node))


def assert_same(network: nn.Module, example: torch.Tensor, result: OptimizeResult) -> None:
    with torch.no_grad():
        expected = network.double()(example.double())
    (got,) = Evaluator(result.model)({"x": example.numpy()}).values()
    error = (torch.from_numpy(got) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5
