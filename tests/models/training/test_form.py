"""Exports in training form: the default passes leave what the authors' own fusion would, and nothing more."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgedeploy.export.runner import optimize
from tests.support.branched_nets import CHANNELS, IMAGE_BLOCKS, RepBN, RunningPower, trained
from tests.support.exports import EXPORTERS, IMAGE, TOKENS, assert_same, exported, operators


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", IMAGE_BLOCKS)
def test_every_block_comes_down_to_what_it_must_compute(name: str, exporter: str) -> None:
    build, ideal = IMAGE_BLOCKS[name]
    torch.manual_seed(1)
    network, example = trained(build(), 2), torch.randn(IMAGE)
    result = optimize(exported(network, example, exporter))
    assert not result.reverted
    assert result.not_run == ""
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
