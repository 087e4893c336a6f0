"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

For a weight matrix with gradient G, E[G G^T] and E[G^T G] have eigenvectors P and Q: Adam runs on P^T G Q,
and its step is rotated back. Small networks are badly conditioned in their own coordinates; this costs a few
matrix products. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """Optimizer for matrices of at most a few thousand rows and columns.

    Args:
        params: weights of any rank; convolutions are (out, in * kernel) matrices, vectors get plain Adam.
        lr: step size.
        betas: decay of the averages of the gradient, and of its square and the preconditioner.
        eps: added to the root of the squared average.
        every: steps between updates of the eigenbasis.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "every": every})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight with a gradient; the first call only computes the eigenbasis."""
        if closure is not None:
            raise TypeError("Soap takes no closure: call backward() before step()")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _update(weight, self.state[weight], group)


def _update(weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    gradient = weight.grad.flatten(1) if weight.ndim > 1 else weight.grad[None]  # type: ignore[index,union-attr]
    matrix = weight.ndim > 1
    if not state:
        state["step"] = 0
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        if matrix:
            for side, product in (("left", gradient @ gradient.T), ("right", gradient.T @ gradient)):
                state[side] = product
                state[f"{side}_basis"] = torch.linalg.eigh(product.double())[1].flip(1).to(product.dtype)
        return
    state["step"] += 1
    (fast, slow), step = group["betas"], state["step"]
    state["mean"].lerp_(gradient, 1 - fast)
    state["square"].lerp_(_rotate(gradient, state).square(), 1 - slow)
    mean = _rotate(state["mean"], state) / (1 - fast**step)
    deviation = (state["square"] / (1 - slow**step)).sqrt_().add_(group["eps"])
    weight.sub_(_rotate_back(mean / deviation, state).view_as(weight), alpha=group["lr"])
    if matrix:
        state["left"].lerp_(gradient @ gradient.T, 1 - slow)
        state["right"].lerp_(gradient.T @ gradient, 1 - slow)
        if step % group["every"] == 0:
            _refresh(state)


def _rotate(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    return state["left_basis"].T @ gradient @ state["right_basis"] if "left" in state else gradient


def _rotate_back(update: Tensor, state: dict[str, Any]) -> Tensor:
    return state["left_basis"] @ update @ state["right_basis"].T if "left" in state else update


def _refresh(state: dict[str, Any]) -> None:
    """One step of orthogonal iteration, after sorting by eigenvalue so that QR keeps the order."""
    for side, axis in (("left", 0), ("right", 1)):
        product, basis = state[side], state[f"{side}_basis"]
        order = torch.argsort((basis * (product @ basis)).sum(0), descending=True)
        state["square"] = state["square"].index_select(axis, order)
        state[f"{side}_basis"] = torch.linalg.qr(product @ basis[:, order])[0]
