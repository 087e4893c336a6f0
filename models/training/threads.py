"""CPU threads of PyTorch; apart from the loop, for encoding and measuring do without Fabric."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """CPU threads of this process from now on, 0 to leave them; sums depend on them in the last bit."""
    if count:
        torch.set_num_threads(count)
