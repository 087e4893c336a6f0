"""Overfit a network to patches of a video, and score every patch with it.

A general model is fitted to a uniform sample of the whole video and scores all patches; one model per chunk
of them, or one joint model for a sample that favours hard ones, starts from its weights and is fitted on.
`edgedeploy.stdo.chunks` makes samples and chunks. Li et al., Towards High-Quality and Efficient Video
Super-Resolution via Spatial-Temporal Data Overfitting, CVPR 2023.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.errors import UsageError
from edgedeploy.models.reparam import reparameterize
from edgedeploy.tasks.metrics import psnr

Pixels = NDArray[np.uint8]
Log = Callable[[int, int, float], None]  # (steps done, in all, mean loss since the last call)
LAST_RATE = 4e-8


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Attributes:
        model: the fitted network, in eval mode.
        losses: mean absolute error of each epoch, of values in [0, 1]; the last may be a part of one.
    """

    model: nn.Module
    losses: tuple[float, ...]


def fit_chunk(
    model: nn.Module,
    low: Pixels,
    high: Pixels,
    *,
    members: NDArray[np.int64] | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    batch: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    log: Log | None = None,
) -> Fitted:
    """Fit a copy of `model` to patches: mean absolute error, Adam, a cosine from `learning_rate` to 4e-8.

    Whole patches without augmentation, as STDO does; the result is the last state, where the released code
    keeps that of the epoch of least loss. The same arguments give the same weights on the same machine and
    number of threads.

    Args:
        model: where to start: a fresh network, or the general model. It is not changed.
        low: patches (N, h, w, 3) uint8, RGB.
        high: what they should become, (N, scale h, scale w, 3) uint8.
        members: positions of the patches to take, e.g. of one chunk; None for all. Nothing is copied.
        steps, epochs: how long; exactly one of them. An epoch takes every member once.
        batch: patches a step; a chunk of fewer is taken whole.
        seed: of the order of patches.
        log: told at the end of each epoch.

    Raises UsageError for patches that fit neither each other nor the network, and for no patches.
    """
    _check_pairs(low, high)
    chosen = np.arange(len(low)) if members is None else np.asarray(members, np.int64)
    if not len(chosen):
        raise UsageError("there are no patches to fit a model to", "an empty chunk needs no model")
    if chosen.min() < 0 or chosen.max() >= len(low):
        raise UsageError(f"patches {chosen.min()} to {chosen.max()} of {len(low)}", "number them from 0")
    per_epoch = math.ceil(len(chosen) / batch)
    if (steps is None) == (epochs is None) or (steps or epochs or 0) < 1 or batch < 1:
        raise UsageError("how long to fit is not clear", "give steps or epochs, at least 1, and a batch")
    total = steps if steps is not None else (epochs or 0) * per_epoch
    network = copy.deepcopy(model).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    done = 0
    while done < total:
        order = rng.permutation(chosen)
        errors: list[float] = []
        for start in range(0, min(len(order), (total - done) * batch), batch):
            for group in optimiser.param_groups:
                group["lr"] = _rate(learning_rate, (done + len(errors)) / total)
            errors.append(_step(network, optimiser, low, high, order[start : start + batch]))
        done += len(errors)
        losses.append(sum(errors) / len(errors))
        if log:
            log(done, total, losses[-1])
    return Fitted(network.eval(), tuple(losses))


def enlarge_patches(model: nn.Module, low: Pixels, *, batch: int = 32) -> Pixels:
    """Enlarged patches (N, scale h, scale w, 3) uint8 of (N, h, w, 3): rounded to 8 bit and clamped."""
    network = reparameterize(model)
    return np.concatenate(
        [_enlarge(network, low[start : start + batch]) for start in range(0, len(low), batch)]
    )


def score_patches(
    model: nn.Module,
    low: Pixels,
    high: Pixels,
    *,
    batch: int = 32,
    log: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """PSNR in dB, (N,), of each enlarged patch: RGB of 8 bit, scale + 4 pixels shaved off each side.

    inf for a patch without error. `log` is told (patches done, in all) after each batch. Raises UsageError as
    `fit_chunk` does, and for patches with nothing left once shaved.
    """
    _check_pairs(low, high)
    border = high.shape[1] // low.shape[1] + 4
    network = reparameterize(model)
    scores = np.empty(len(low))
    for start in range(0, len(low), batch):
        truth = high[start : start + batch]
        found = _enlarge(network, low[start : start + batch])
        if found.shape != truth.shape:
            raise _misfit(found.shape, truth.shape)
        for i, (one, other) in enumerate(zip(truth, found, strict=True)):
            scores[start + i] = psnr(one, other, border)
        if log:
            log(start + len(truth), len(low))
    return scores


def _rate(first: float, progress: float) -> float:
    return LAST_RATE + 0.5 * (first - LAST_RATE) * (1 + math.cos(math.pi * progress))


def _step(
    network: nn.Module, optimiser: torch.optim.Optimizer, low: Pixels, high: Pixels, batch: NDArray[np.int64]
) -> float:
    x, truth = (_tensor(pixels[batch], network) for pixels in (low, high))
    y = network(x)
    if y.shape != truth.shape:
        raise _misfit(_shape_of(y), _shape_of(truth))
    loss = F.l1_loss(y, truth)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(loss.detach())


def _enlarge(network: nn.Module, low: Pixels) -> Pixels:
    with torch.no_grad():
        y = network(_tensor(low, network)) * 255
    pixels: Pixels = y.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _tensor(pixels: Pixels, network: nn.Module) -> Tensor:
    """(N, h, w, 3) uint8 as (N, 3, h, w) float32 in [0, 1], where the network is."""
    device = next(network.parameters()).device
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous().float() / 255


def _check_pairs(low: Pixels, high: Pixels) -> None:
    images = all(a.ndim == 4 and a.shape[3] == 3 and a.dtype == np.uint8 and a.size for a in (low, high))
    scale = high.shape[1] // low.shape[1] if images else 0
    if not images or high.shape != (len(low), scale * low.shape[1], scale * low.shape[2], 3):
        raise UsageError(
            f"patches of {low.shape} and {high.shape} are no pairs",
            "give (N, h, w, 3) and (N, scale h, scale w, 3), RGB of 8 bit",
        )


def _shape_of(images: Tensor) -> tuple[int, ...]:
    return tuple(images.permute(0, 2, 3, 1).shape)


def _misfit(found: Sequence[int], wanted: Sequence[int]) -> UsageError:
    return UsageError(
        f"the network makes patches of {found[2]}x{found[1]}, not {wanted[2]}x{wanted[1]}",
        "take a network of the scale of the patches",
    )
