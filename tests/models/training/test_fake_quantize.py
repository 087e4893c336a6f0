"""Rounding in training: on the 8-bit grid, transparent to gradients, and gone afterward."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from edgedeploy.calibration import Range, load_rules, place, quantize, wanted
from edgedeploy.calibration.place.weights import on_grid, quantize_weight
from edgedeploy.core.parity import compare
from edgedeploy.export.capture.exporters import export_dynamo
from edgedeploy.models.training.fake_quantize import (
    fake_quantized,
    round_activation,
    round_weight,
    rounded,
)
from tests.support.qdq_nets import run


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1))


def test_weights_lie_on_a_grid_of_their_channel() -> None:
    w = torch.randn(5, 3, 3, 3) * torch.logspace(-3, 2, 5).reshape(-1, 1, 1, 1)
    q = round_weight(w)
    for channel, snapped in zip(w, q, strict=True):
        scale = channel.abs().max() / 127
        levels = snapped / scale
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert (snapped - channel).abs().max() <= scale / 2 * 1.001
        assert (snapped - channel).abs().max() > 0


@pytest.mark.parametrize(("low", "levels"), [(0.0, 255), (-1.0, 127)])
def test_activations_take_all_levels_that_their_sign_leaves(low: float, levels: int) -> None:
    x = torch.linspace(low, 1.0, 10001)
    assert round_activation(x).unique().numel() == (levels + 1 if low == 0 else 2 * levels + 1)
    assert (round_activation(x) - x).abs().max() <= 0.5 / levels * 1.001


def test_gradients_pass_as_if_nothing_were_rounded() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (round_weight(x) * torch.arange(12.0).reshape(4, 3)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.arange(12.0).reshape(4, 3))


def test_the_network_is_rounded_inside_and_itself_again_outside(network: nn.Module) -> None:
    x = torch.rand(1, 1, 8, 8)
    before, weights = network(x), [p.detach().clone() for p in network.parameters()]
    with fake_quantized(network):
        inside = network(x)
    assert 1e-4 < (inside - before).abs().max() < 0.1
    assert torch.equal(network(x), before)
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


def test_what_is_trained_in_there_fits_the_rounded_network(network: nn.Module) -> None:
    """Fitting the exact network's outputs under rounding brings the rounded network closer to them."""
    x = torch.rand(8, 1, 12, 12)
    wanted = network(x).detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)
    errors = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 3e-4 * (1 - step / 200)  # weights settle on their grid
        with fake_quantized(network):
            error = (network(x) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-20:]) < 0.85 * errors[0]


def test_quantizing_a_rounded_network_loses_nothing(network: nn.Module) -> None:
    before = [p.detach().clone() for p in network.parameters()]
    result = rounded(network)
    for name, w in result.named_parameters():
        if w.ndim > 1:
            codes, scale = quantize_weight(w.detach().numpy(), 0)
            again = codes * scale.reshape(-1, 1, 1, 1)
            assert abs(again - w.detach().numpy()).max() < 1e-6, name
            assert on_grid(w.detach().numpy(), 0)
    assert not any(on_grid(p.detach().numpy(), 0) for p in network.parameters() if p.ndim > 1)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize(("rules", "activation"), [("tensorrt", "int8"), ("openvino", "uint8")])
def test_the_exported_and_quantized_file_computes_what_was_trained(
    network: nn.Sequential, rules: str, activation: Literal["int8", "uint8"]
) -> None:
    """Trained under rounding, rounded, exported, Q/DQ placed: the same outputs, not just near."""
    x = torch.rand(4, 1, 12, 12)
    target = network(x).detach() * 1.1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(20):
        with fake_quantized(network, activation):
            loss = (network(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen: list[Range] = []
    hooks = [
        network[index].register_forward_pre_hook(
            lambda _, given: seen.append(Range(given[0].min().item(), given[0].max().item()))
        )
        for index in (0, 2)
    ]
    with fake_quantized(network, activation), torch.no_grad():
        trained = network(x).numpy()
    for hook in hooks:
        hook.remove()
    model = export_dynamo(rounded(network).eval(), x, "x", ["y"], 20, dynamic=False, multiple=1)
    chosen = load_rules(rules).with_options(first=True, last=True, small_channels=False)
    floats = compare(trained, run(model, x.numpy())[0]).sqnr_db
    assert floats < 50  # rounding is seen
    # With the ranges of the training's last step it is the same arithmetic.
    ranges = dict(zip(wanted(model, chosen), seen, strict=True))
    exact, _ = place(model, ranges, chosen)
    assert compare(trained, run(exact, x.numpy())[0]).sqnr_db > floats + 25
    # Ranges measured anew differ by what rounding does to the range, and so do codes near a boundary.
    data = [{"x": x.numpy()}]
    result = quantize(model, lambda: data, method="minmax", rules=chosen, corrections=("adaround",))
    assert len(result.report.placement.quantized) == 2
    assert not [note for note in result.report.placement.notes if "weights" in note]  # nothing to choose
    assert compare(trained, run(result.model, x.numpy())[0]).sqnr_db > floats + 5
