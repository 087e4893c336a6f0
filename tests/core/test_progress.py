"""`reported` counts an item when the work on it has ended."""

from __future__ import annotations

from edgedeploy.core.progress import reported


def test_each_item_is_reported_after_its_work() -> None:
    events: list[object] = []
    for item in reported("ab", lambda done, total: events.append((done, total))):
        events.append(item)
    assert events == ["a", (1, 2), "b", (2, 2)]


def test_an_item_that_fails_is_not_reported() -> None:
    events: list[tuple[int, int | None]] = []
    for item in reported("ab", lambda done, total: events.append((done, total))):
        if item == "b":
            break
    assert events == [(1, 2)]
    assert list(reported("ab", None)) == ["a", "b"]
