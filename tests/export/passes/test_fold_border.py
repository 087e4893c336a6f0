"""Diverse branch blocks as their authors pad them: all of it goes; a border of anything else stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from tests.support.branched_nets import CHANNELS, Sum, trained
from tests.support.exports import EXPORTERS, IMAGE, assert_same, exported, operators


class NormAndPad(nn.Module):
    """A batch norm, padded with what it gives for zero."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.bn, self.width = nn.BatchNorm2d(channels), width

    def forward(self, x: Tensor) -> Tensor:
        w = self.width
        y = functional.pad(self.bn(x), [w] * 4)
        mean, variance = self.bn.get_buffer("running_mean"), self.bn.get_buffer("running_var")
        value = self.bn.bias - mean * self.bn.weight / torch.sqrt(variance + self.bn.eps)
        value = value.view(1, -1, 1, 1)
        y[:, :, 0:w, :] = value
        y[:, :, -w:, :] = value
        y[:, :, :, 0:w] = value
        y[:, :, :, -w:] = value
        return y


def block() -> nn.Module:
    """A kxk branch, a 1x1-kxk branch, a 1x1-average branch, a 1x1 branch."""
    c = CHANNELS

    def first() -> list[nn.Module]:
        return [nn.Conv2d(c, c, 1, bias=False), NormAndPad(c, 1)]

    return Sum(
        nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)),
        nn.Sequential(*first(), nn.Conv2d(c, c, 3, bias=False), nn.BatchNorm2d(c)),
        nn.Sequential(*first(), nn.AvgPool2d(3, 1), nn.BatchNorm2d(c)),
        nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c)),
    )


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_diverse_branch_block_is_one_convolution(exporter: str) -> None:
    torch.manual_seed(1)
    network, example = trained(block(), 2), torch.randn(IMAGE)
    result = optimize(exported(network, example, exporter))
    assert not result.reverted
    assert operators(result) == {"Conv": 1, "Relu": 1}
    assert_same(network, example, result)


def changed(model: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (tensor,) = [tensor for tensor in other.graph.initializer if tensor.name == name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return other


def test_a_border_of_anything_else_stays(rng: np.random.Generator) -> None:
    model = PASSES.get("fold-border").examples(rng)[0][0]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    broken = {
        "what is written around is not the bias": ("v_end", stored["v_end"] * 1.001),
        "what follows changes more than the border": ("left", stored["left"] + np.array([0, 0, 0, 1])),
    }
    for reason, (name, values) in broken.items():
        result = optimize(changed(model, name, values), ["fold-border"])
        assert not result.steps
        assert [entry.reason for _, entry in result.skipped] == [reason]
