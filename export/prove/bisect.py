"""Which single rewrite broke a promise? The first n rewrites hold, n + 1 do not: the last is to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def first_failure(attempt: Callable[[int], T], hits: int, failure: type[Exception]) -> tuple[int, Exception]:
    """(n, what was raised): `attempt(n)` raises `failure`, while `attempt(n - 1)` does not.

    `attempt(hits)` is known to raise and `attempt(0)` not to; about log2(hits) others are made. Where
    failures come and go with n, one of the places is found.
    """
    good, bad = 0, hits
    seen: Exception | None = None
    while bad - good > 1 or seen is None:
        middle = (good + bad) // 2 if bad - good > 1 else bad
        try:
            attempt(middle)
        except failure as reason:
            bad, seen = middle, reason
        else:
            if middle == bad:  # it was the surroundings, not the rewrites: nothing to find
                raise LookupError("it does not fail a second time")
            good = middle
    return bad, seen
