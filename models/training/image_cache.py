"""Cache of decoded training images: keeps as many as fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item", bound=np.ndarray | tuple[np.ndarray, ...])
MEMORY = 1_000_000_000  # bytes


class ImageCache(Generic[Item]):
    """`cache(index)` is `read(index)`, an array or a tuple of arrays; kept while `memory` bytes suffice."""

    def __init__(self, read: Callable[[int], Item], memory: int = MEMORY) -> None:
        self.read, self.left = read, memory
        self._kept: dict[int, Item] = {}

    def __call__(self, index: int) -> Item:
        if index in self._kept:
            return self._kept[index]
        item = self.read(index)
        size = item.nbytes if isinstance(item, np.ndarray) else sum(part.nbytes for part in item)
        if size <= self.left:
            self.left -= size
            self._kept[index] = item
        return item
