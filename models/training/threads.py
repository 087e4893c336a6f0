"""CPU threads of PyTorch; apart from the loop, because encoding and evaluation do not need Fabric."""

from __future__ import annotations

import torch


def use_threads(count: int) -> None:
    """Set the CPU threads of this process, 0 to leave them; sums depend on the number in the last bit."""
    if count:
        torch.set_num_threads(count)
