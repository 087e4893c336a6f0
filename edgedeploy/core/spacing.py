"""Which of many things to look at, when a few have to stand for all."""

from __future__ import annotations


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, evenly spaced from the first on, in order."""
    return list(range(count)) if count <= wanted else [i * count // wanted for i in range(wanted)]
