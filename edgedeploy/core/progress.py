"""Progress callback: a plain callable, so that no layer depends on a display."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]  # (done, total or None)
