"""`reported` counts an item when the work on it has ended."""

from __future__ import annotations

from edgedeploy.core.progress import reported

Counts = list[tuple[int, int | None]]


def test_each_item_is_reported_after_its_work() -> None:
    counts: Counts = []
    before = [len(counts) for _ in reported("ab", lambda done, total: counts.append((done, total)))]
    assert before == [0, 1]
    assert counts == [(1, 2), (2, 2)]
    assert list(reported("ab", None)) == ["a", "b"]


def test_an_item_that_fails_is_not_reported() -> None:
    counts: Counts = []
    for item in reported("ab", lambda done, total: counts.append((done, total))):
        if item == "b":
            break
    assert counts == [(1, 2)]
