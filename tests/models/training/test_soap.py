"""SOAP: it solves what Adam finds hard, and its eigenbasis follows the gradients."""

from __future__ import annotations

import torch
from torch import nn

from edgedeploy.models.training.soap import Soap


def badly_conditioned(optimizer: str, steps: int) -> float:
    """Final loss of a linear fit whose inputs are correlated, which Adam's own axes do not suit."""
    torch.manual_seed(0)
    mix = torch.linalg.qr(torch.randn(16, 16))[0] @ torch.diag(torch.logspace(0, -2, 16))
    x = torch.randn(512, 16) @ mix.T @ torch.linalg.qr(torch.randn(16, 16))[0]
    y = x @ torch.randn(16, 8)
    layer = nn.Linear(16, 8)
    maker = {"soap": Soap, "adam": torch.optim.Adam}[optimizer]
    chosen = maker(layer.parameters(), lr=3e-2)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        loss = (layer(x) - y).square().mean()
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    return loss.item()


def test_soap_solves_what_adam_finds_hard() -> None:
    assert badly_conditioned("soap", 200) < 0.2 * badly_conditioned("adam", 200)


def test_soap_on_a_vector_is_adam_one_step_late() -> None:
    """Vectors have no eigenbasis; the first step of SOAP only looks."""
    soap, adam = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one = Soap([soap], lr=0.1, betas=(0.9, 0.99))
    two = torch.optim.Adam([adam], lr=0.1, betas=(0.9, 0.99))
    for step in range(6):
        gradient = torch.linspace(-1, 2, 5) * (step + 1)
        soap.grad = gradient.clone()
        one.step()
        if step:
            adam.grad = gradient.clone()
            two.step()
    torch.testing.assert_close(soap, adam)


def test_soap_follows_the_eigenbasis_as_it_turns() -> None:
    weight = nn.Parameter(torch.zeros(6, 4))
    optimizer = Soap([weight], lr=1e-3)
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(6, 6))[0] * torch.logspace(0, -2, 6)
    right = torch.linalg.qr(torch.randn(4, 4))[0] * torch.logspace(0, -1, 4)
    for _ in range(300):
        weight.grad = left @ torch.randn(6, 4) @ right.T
        optimizer.step()
    state = optimizer.state[weight]
    basis = state["left_basis"]
    turned = basis.T @ state["left"] @ basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(6))
    off = turned - turned.diag().diag()
    assert off.norm() < 0.05 * turned.norm()


def test_soap_keeps_squares_with_their_directions_when_the_order_changes() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = Soap([weight], lr=1e-3)
    orders = set()
    for step in range(160):
        large, small = (3.0, 1.0) if step < 80 else (1.0, 3.0)
        weight.grad = torch.diag(torch.tensor([large * (-1) ** step, small]))
        optimizer.step()
        if step > 60:
            state = optimizer.state[weight]
            turned = (state["left_basis"].T @ state["left"] @ state["left_basis"]).diag()
            torch.testing.assert_close(state["square"].diag(), turned, rtol=0.1, atol=0.1)
            orders.add(int(state["left_basis"][:, 0].abs().argmax()))
    assert orders == {0, 1}  # it did change
