"""Progress callback: a plain callable, so that no layer depends on a display."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[int, int | None], None]  # (done, total or None)


def reported(items: Sequence[T], progress: Progress | None) -> Iterator[T]:
    """Yield the items; report each one when the caller asks for the next."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(done, len(items))
