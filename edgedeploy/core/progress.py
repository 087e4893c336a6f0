"""How long work says how far it is: a plain callable, so that no layer knows who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]  # (done, in all; None where that is not known)
