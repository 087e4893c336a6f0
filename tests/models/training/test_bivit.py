"""Binarizing a real network in two stages."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgedeploy.core.errors import UsageError
from edgedeploy.models import create_model
from edgedeploy.models.layers.bivit import BinaryAttention, BinaryLinear
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.training.bivit import (
    TWO_STAGES,
    Stage,
    always_binary,
    enter_stage,
    is_binary,
    set_binary,
    stage_at,
    start_from_real,
)


def test_stages_follow_each_other() -> None:
    seen = [stage_at(step, 9) for step in range(9)]
    assert seen == [TWO_STAGES[0]] * 5 + [TWO_STAGES[1]] * 4
    assert [stage.mlp for stage in TWO_STAGES] == [False, True]
    with pytest.raises(UsageError, match=r"take 0.5 of the steps"):
        stage_at(0, 9, (Stage(0.5, attention=True, mlp=True),))


def test_what_becomes_binary_takes_its_scales_from_the_weights_then() -> None:
    model = create_model("bivit_deit_micro")
    set_binary(model, attention=True, mlp=False)
    flags = {
        name: m.binary for name, m in model.named_modules() if isinstance(m, BinaryLinear | BinaryAttention)
    }
    assert all(binary == (".mlp." not in name) for name, binary in flags.items())
    layers = dict(model.named_modules())
    fc1, qkv = layers["blocks.0.mlp.fc1"], layers["blocks.0.attn.qkv"]
    assert isinstance(fc1, BinaryLinear)
    assert isinstance(qkv, BinaryLinear)
    before = qkv.scales().detach().clone()
    with torch.no_grad():
        fc1.weight.mul_(3)
        qkv.weight.mul_(3)
    set_binary(model, attention=True, mlp=True)
    torch.testing.assert_close(fc1.scales().detach(), fc1.mean_scales())
    torch.testing.assert_close(qkv.scales().detach(), before)  # binary all along: its scales are its own


def test_start_from_a_real_network() -> None:
    real = create_model("bivit_deit_micro")
    state = {k: v + 0.1 for k, v in real.state_dict().items() if not k.endswith("scaling_factor")}
    model = create_model("bivit_deit_micro")
    assert start_from_real(model, {**state, "extra": torch.zeros(1)}) == ("extra",)
    for layer in model.modules():
        if isinstance(layer, BinaryLinear):
            torch.testing.assert_close(layer.scales().detach(), layer.mean_scales())
    del state["norm.weight"]
    with pytest.raises(UsageError, match=r"no norm.weight"):
        start_from_real(model, state)


def test_the_small_network_learns_in_both_stages() -> None:
    torch.manual_seed(0)
    model = create_model("bivit_deit_micro", classes=2, image_size=16)
    images = torch.rand(2, 3, 16, 16).repeat_interleave(4, 0) + 0.1 * torch.rand(8, 3, 16, 16)
    labels = torch.arange(2).repeat_interleave(4)
    optimizer = torch.optim.Adam(
        model.parameters(), 3e-4
    )  # at 1e-3 the last step hangs on the CPU's rounding
    losses = []
    for step in range(60):
        stage = stage_at(step, 60)
        set_binary(model, attention=stage.attention, mlp=stage.mlp)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[:30]) < 0.4 * losses[0]  # attention binary, MLPs real
    assert min(losses[30:]) < 0.4 * losses[0]  # all binary
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_a_half_binary_network_deploys_as_what_it_is() -> None:
    torch.manual_seed(0)
    model = create_model("bivit_deit_micro").eval()
    set_binary(model, attention=False, mlp=True)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(reparameterize(model)(x), model(x), atol=1e-5, rtol=1e-4)


def test_what_stands_between_two_stages_goes_on_as_if_it_had_run_through() -> None:
    """A network built anew, with the weights of the last real step, starts its scales as the old one does."""
    stages = (Stage(0.5, attention=False, mlp=False), Stage(0.5, attention=True, mlp=True))
    model = create_model("bivit_deit_micro")
    for step in range(2):
        enter_stage(model, step, 4, stages)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    again = create_model("bivit_deit_micro")
    again.load_state_dict(model.state_dict())
    for network in (model, again):
        enter_stage(network, 2, 4, stages)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    enter_stage(model, 0, 4, stages)
    assert is_binary(model)
    layers = [m for m in model.modules() if isinstance(m, BinaryLinear | BinaryAttention)]
    assert not any(layer.binary for layer in layers)
    with always_binary(model):
        assert all(layer.binary for layer in layers)
    assert not any(layer.binary for layer in layers)
    assert not is_binary(create_model("slab_deit_micro"))
