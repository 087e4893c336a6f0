"""Statistics of chosen tensors over a stream of inputs, in memory that does not grow with their number.

Each value is reduced to extremes and a histogram as soon as it is there, and dropped: activations are never
kept. Where one image's tensors exceed the budget, they are collected in several passes over the data. What
was measured before is not measured again, and what was interrupted goes on, where the data can be told.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from edgedeploy.backend import Feeds
from edgedeploy.calibration.calibrator import TensorStatistics
from edgedeploy.calibration.collect.accumulate import Accumulator
from edgedeploy.calibration.collect.dataset import CalibrationData
from edgedeploy.calibration.collect.histogram import Histogram
from edgedeploy.calibration.collect.memory_plan import MemoryPlan, plan_memory
from edgedeploy.calibration.collect.probe import Probe
from edgedeploy.calibration.collect.store import Group, StatisticsStore
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.progress import Progress

FeedsFactory = Callable[[], Iterable[Feeds]]
CHECKPOINT_S = 2.0  # what a kill may cost


@dataclass(frozen=True)
class Collected:
    """Statistics per tensor, and how they were gathered.

    Attributes:
        statistics: by tensor, in the order asked for.
        images: feeds that they are of.
        passes: passes over the data that were made now.
        note: what the user should know of its memory, or nothing.
    """

    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    images: int = 0
    passes: int = 0
    note: str = ""


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    feeds_factory: FeedsFactory,
    *,
    histograms: bool,
    channels: bool = False,
    memory_mb: int = 512,
    progress: Progress | None = None,
) -> Collected:
    """Statistics of `tensors` (inputs, or outputs of any node, float) over all feeds.

    `feeds_factory` is called once for every pass over the data and must yield the same feeds each time; a
    `CalibrationData` that keeps statistics is asked for those of earlier runs first, and given the new ones.
    `memory_mb` bounds what this takes on top of the program and its model; see `budget` for what is counted,
    and `Collected.note` for where that cannot be.
    `progress` is called with (feeds done, feeds in total or None) over all passes.

    Raises CalibrationError if there is no feed, a later pass yields another number of them, or the model does
    not run on one.
    """
    data = feeds_factory if isinstance(feeds_factory, CalibrationData) else None
    store = data.store(model) if data is not None else None
    known = Group() if store is None else store.finished(tensors, histograms=histograms, channels=channels)
    missing = [name for name in tensors if name not in known.accumulators]
    if data is not None and known.accumulators and not missing:
        data.restore_report(known.report)
    passes, note = 0, ""
    if missing:
        collector = _Collector(model, feeds_factory, store, histograms, channels, progress)
        passes = collector.run(missing, memory_mb << 20, known.images or None)
        note = collector.note
        known.accumulators |= collector.accumulators
        known.images = collector.images
    statistics = {name: known.accumulators[name].statistics() for name in tensors}
    return Collected(statistics, known.images, passes, note)


class _Collector:
    """Makes the passes over the data."""

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds_factory: FeedsFactory,
        store: StatisticsStore | None,
        histograms: bool,
        channels: bool,
        progress: Progress | None,
    ) -> None:
        self.model, self.feeds_factory, self.store, self.progress = model, feeds_factory, store, progress
        self.histograms, self.channels = histograms, channels
        self.accumulators: dict[str, Accumulator] = {}
        self.images = 0
        self.note = ""
        self._plan = MemoryPlan([], 0, 0)
        self._done = 0
        self._total: int | None = None

    def run(self, tensors: Sequence[str], budget: int, images: int | None) -> int:
        """Collect the tensors; the number of passes that it took. `images` is their number where known."""
        source = self.feeds_factory()
        length = len(source) if isinstance(source, Sized) else None
        iterator = iter(source)
        first = next(iterator, None)
        if first is None:
            raise CalibrationError(
                "there is no calibration data", "give images of the kind that the model will see"
            )
        begun = self._begun(tensors)
        rest = [name for name in tensors if begun is None or name not in begun.accumulators]
        self._plan = plan = plan_memory(self.model, rest, first, budget, histograms=self.histograms)
        self.note = plan.note(budget)
        groups = [self._fresh(names) for names in plan.groups]
        groups = groups if begun is None else [begun, *groups]
        self._total = None if length is None else length * len(groups)
        feeds_left: Iterable[Feeds] = _rejoined([first], iterator)
        del first, iterator, source
        with ThreadPoolExecutor(_processors()) as pool:
            for number, group in enumerate(groups):
                self._pass(group, feeds_left, pool)
                images = group.images if images is None else images
                if group.images != images:
                    raise CalibrationError(
                        f"pass {number + 1} over the calibration data gave {group.images} inputs, "
                        f"{'the first' if number else 'an earlier run'} {images}",
                        "give a function that starts anew at every call, or raise calibration.memory_mb",
                    )
                if self._total != images * len(groups):  # some could not be used, or nobody knew
                    self._total = images * len(groups)
                    self._tell(0)
                self.accumulators |= group.accumulators
                if self.store is not None:
                    self.store.finish(group)
                feeds_left = self.feeds_factory() if number + 1 < len(groups) else ()
        self.images = images or 0
        return len(groups)

    def _fresh(self, names: Sequence[str]) -> Group:
        return Group(
            {name: Accumulator(Histogram() if self.histograms else None, self.channels) for name in names}
        )

    def _begun(self, tensors: Sequence[str]) -> Group | None:
        """A group that an interrupted run left, if it is part of what is wanted now."""
        group = None if self.store is None else self.store.under_way()
        if group is None or not set(group.accumulators) <= set(tensors):
            return None
        fits = all(
            (entry.histogram is not None) == self.histograms and entry.channels == self.channels
            for entry in group.accumulators.values()
        )
        return group if fits else None

    def _pass(self, group: Group, feeds_left: Iterable[Feeds], pool: Executor) -> None:
        """Show the group every input that it has not seen yet."""
        probe = Probe(self.model, list(group.accumulators), self._plan.inputs, self._plan.shapes)
        behind, seen = group.images, 0
        saved, whole = time.monotonic(), True
        if behind:
            self._tell(behind)
        try:
            for feeds in feeds_left:
                seen += 1
                if seen <= behind:  # drawn again for the sake of those after it, and of the data's report
                    continue
                values = probe.run(feeds)
                whole = False
                _add(group, values, pool)
                group.images, whole = seen, True
                del feeds, values
                self._tell(1)
                if self.store is not None and time.monotonic() - saved > CHECKPOINT_S:
                    self.store.checkpoint(group)
                    saved = time.monotonic()
        except BaseException:
            if whole and self.store is not None and group.images:
                self.store.checkpoint(group)
            raise
        group.images = seen
        if isinstance(self.feeds_factory, CalibrationData):
            group.report = self.feeds_factory.report_json()

    def _tell(self, more: int) -> None:
        self._done += more
        if self.progress is not None:
            self.progress(self._done, self._total)


def _add(group: Group, values: Iterable[tuple[str, NDArray[Any]]], pool: Executor) -> None:
    """Add the values to their accumulators, a few at a time: each may be a copy."""
    pending: deque[Future[None]] = deque()
    for name, value in values:
        if len(pending) > _processors():
            pending.popleft().result()
        pending.append(pool.submit(group.accumulators[name].add, value))
    for entry in pending:
        entry.result()


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rejoined(first: list[Feeds], rest: Iterator[Feeds]) -> Iterator[Feeds]:
    """The first feed and the rest; unlike itertools.chain it lets go of the first."""
    yield first.pop()
    yield from rest
