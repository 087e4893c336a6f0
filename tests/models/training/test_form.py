"""Exports in training form: the default passes leave what the authors' own fusion would, and nothing more."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from torch import nn

from edgedeploy.export.capture.exporters import export_dynamo, export_torchscript
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.graphs.evaluate import Evaluator
from tests.support.branched_nets import CHANNELS, IMAGE_BLOCKS, RepBN, RunningPower, trained

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


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", IMAGE_BLOCKS)
def test_every_block_comes_down_to_what_it_must_compute(name: str, exporter: str) -> None:
    build, ideal = IMAGE_BLOCKS[name]
    torch.manual_seed(1)
    network, example = trained(build(), 2), torch.randn(IMAGE)
    result = optimize(exported(network, example, exporter))
    assert not result.reverted
    assert result.left_alone == ""
    assert operators(result) == ideal
    assert_same(network, example, result)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_running_statistics_of_tokens_become_one_scale_and_shift(exporter: str) -> None:
    torch.manual_seed(1)
    network = trained(nn.Sequential(nn.Tanh(), RunningPower(CHANNELS), nn.Tanh()), 2)
    example = torch.randn(TOKENS)
    result = optimize(exported(network, example, exporter))
    assert operators(result) == {"Tanh": 2, "Mul": 1, "Add": 1}
    assert_same(network, example, result)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_repbn_of_tokens_becomes_one_normalization(exporter: str) -> None:
    torch.manual_seed(1)
    network, example = trained(nn.Sequential(nn.Tanh(), RepBN(CHANNELS), nn.Tanh()), 2), torch.randn(TOKENS)
    result = optimize(exported(network, example, exporter), ["fold-constants", "merge-parallel-affine"])
    assert operators(result) == {"Tanh": 2, "Transpose": 2, "BatchNormalization": 1}
    assert_same(network, example, result)
