"""A bounded queue between two threads of the demo, with an end, an error path and a newest-only mode.

A full channel blocks its producer: no frame of a file is lost. With `latest` it drops its oldest item
instead: a slow model shows the newest frame of a camera.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
WAKE_S = 0.5  # on some systems Ctrl-C cannot interrupt a wait without a timeout


class Closed(Exception):
    """The consumer has gone: its producer can stop."""


class Channel(Generic[T]):
    """One producer, one consumer; `dropped` counts items that newer ones replaced."""

    def __init__(self, capacity: int, latest: bool = False) -> None:
        self.capacity, self.latest = capacity, latest
        self.dropped = 0
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._cancelled = self._after_items = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Append an item; raises Closed if the consumer has gone."""
        with self._changed:
            while not self.latest and not self._cancelled and len(self._items) >= self.capacity:
                self._changed.wait(WAKE_S)
            if self._cancelled:
                raise Closed
            if len(self._items) >= self.capacity:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None, *, after_items: bool = False) -> None:
        """End the channel; the consumer raises `error` at once, or after the items that are left."""
        with self._changed:
            self._ended, self._error, self._after_items = True, error, after_items
            self._changed.notify_all()

    def cancel(self) -> None:
        """The consumer wants no more."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._ended and not self._cancelled:
                    self._changed.wait(WAKE_S)
                if self._error is not None and not (self._after_items and self._items):
                    raise self._error
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
