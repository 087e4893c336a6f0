"""Overfit a super-resolution network to patches of one video.

L = mean |N(x) - y| over a patch without its halo: the network sees what surrounds a patch, and is judged by
what it makes of the patch itself. Adam with a cosine from 1e-3 to 4e-8, as STDO's authors have it. The random
generator is seeded, so the same patches, weights, steps and seed give the same network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.files import write_bytes
from edgedeploy.core.progress import Progress
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.registry import MODELS
from edgedeploy.models.training.interpolating import start_from_interpolation

Pixels = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], tuple[Pixels, Pixels]]
RATE, LAST_RATE = 1e-3, 4e-8


def overfit_file(
    name: str,
    draw: Draw,
    out: Path,
    *,
    steps: int,
    crop: int,
    seed: int,
    start: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the network `name` of the zoo on batches and write its weights to `out`, a safetensors file.

    Args:
        draw: gives a batch, uint8 RGB: low resolution (N, h, w, 3), and high resolution (N, H, W, 3) of the
            middle: s*h = H + 2 crop, s*w = W + 2 crop.
        steps: updates; with none the start itself is written.
        crop: pixels at each side of what the network makes that do not count.
        start: weights to begin with; by default the network begins as an interpolation, see there.
    """
    torch.manual_seed(seed)
    if start is not None:
        network = load_checkpoint(name, start).model
    else:
        network = MODELS.get(name).build()
        start_from_interpolation(network)
    overfit(network, draw, steps=steps, crop=crop, seed=seed, progress=progress)
    write_bytes(out, save({key: value.contiguous() for key, value in network.state_dict().items()}))


def overfit(
    network: nn.Module,
    draw: Draw,
    *,
    steps: int,
    crop: int,
    seed: int,
    progress: Progress | None = None,
) -> list[float]:
    """Train in place, leave in eval mode; arguments as in `overfit_file`. Returns the loss of every step."""
    generator = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps), LAST_RATE)
    losses = []
    network.train()
    for step in range(steps):
        low, high = (_tensor(pixels) for pixels in draw(generator))
        loss = F.l1_loss(_inner(network(low), crop), high)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if progress:
            progress(step + 1, steps)
    network.eval()
    return losses


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255


def _inner(batch: Tensor, crop: int) -> Tensor:
    return batch[..., crop : batch.shape[2] - crop, crop : batch.shape[3] - crop]
