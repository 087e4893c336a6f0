"""Overfit a super-resolution network to patches of one video.

L = mean |N(x) - y| over a patch without its halo: the network reads the surroundings of a patch, and the loss
compares the patch alone. Adam with a cosine from 1e-3 to 4e-8, as STDO's authors use. This is not `Training`
of loop.py: encoding needs neither Fabric nor recipes, and its batches come from a clip in memory. Li et al.,
Spatial-Temporal Data Overfitting, CVPR 2023.
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

from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import replacing, write_bytes
from edgedeploy.core.progress import Progress
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.registry import MODELS
from edgedeploy.models.training.interpolating import start_from_interpolation
from edgedeploy.models.training.schedule import cosine

Pixels = NDArray[np.uint8]
Draw = Callable[[np.random.Generator], tuple[Pixels, Pixels]]
RATE, LAST_RATE = 1e-3, 4e-8
SAVE_EVERY = 100


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

    `out` with the suffix .state holds the state of an interrupted training, which resumes.

    Args:
        draw: returns a batch, uint8 RGB: low resolution (N, h, w, 3), and high resolution (N, H, W, 3) of the
            center: s*h = H + 2 crop, s*w = W + 2 crop.
        steps: updates; with 0 the initial weights are written.
        crop: border of the network's output without loss, pixels.
        seed: of the initial weights and, with the step, of each batch.
        start: initial weights; by default the network starts as interpolation, see interpolating.py.
    """
    torch.manual_seed(seed)
    if start is not None:
        network = load_checkpoint(name, start).model
    else:
        network = MODELS.get(name).build()
        start_from_interpolation(network)
    state = out.with_suffix(".state")
    overfit(network, draw, steps=steps, crop=crop, seed=seed, checkpoint=state, progress=progress)
    write_bytes(out, save({key: value.contiguous() for key, value in network.state_dict().items()}))
    state.unlink(missing_ok=True)


def overfit(
    network: nn.Module,
    draw: Draw,
    *,
    steps: int,
    crop: int,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train in place and leave in eval mode; arguments as in `overfit_file`. Returns the loss of each update.

    A batch depends on (seed, step) alone. With a `checkpoint`, written every SAVE_EVERY steps, a resumed
    training ends in the same weights, bit for bit on the same machine; losses are those of its own updates.

    Raises UsageError for patches of another size, and for a checkpoint of another network.
    """
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    first = _resume(checkpoint, network, optimizer) if checkpoint and checkpoint.is_file() else 0
    losses = []
    network.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(RATE, LAST_RATE, step / steps)
        losses.append(_update(network, optimizer, draw(np.random.default_rng([seed, step])), crop))
        if checkpoint and (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
            with replacing(checkpoint) as temporary:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "step": step + 1}, temporary)
        if progress:
            progress(step + 1, steps)
    network.eval()
    return losses


def _update(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Pixels, Pixels], crop: int
) -> float:
    low, high = (_tensor(pixels) for pixels in batch)
    made = network(low)
    inner = made[..., crop : made.shape[2] - crop, crop : made.shape[3] - crop]
    if inner.shape != high.shape:
        raise UsageError(
            f"the network makes patches of {inner.shape[3]}x{inner.shape[2]}, "
            f"not {high.shape[3]}x{high.shape[2]}",
            "take a network of the scale of the patches",
        )
    loss = F.l1_loss(inner, high)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _resume(checkpoint: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the state of `network` and `optimizer`; returns the number of updates so far."""
    state = torch.load(checkpoint, weights_only=True)
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    except RuntimeError:
        raise UsageError(f"{checkpoint} is of another network", f"delete {checkpoint}") from None
    return int(state["step"])


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32) / 255
