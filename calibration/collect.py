"""Statistics of chosen tensors over a stream of inputs, in memory that does not grow with their number.

The tensors become outputs of the model, which runs in ONNX Runtime; each value is reduced to extremes and a
histogram as soon as it is there, and dropped. Where one image's tensors exceed the budget, they are collected
in several passes over the data. Activations are never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.backends.base import Feeds
from edgedeploy.calibration.base import TensorStatistics
from edgedeploy.calibration.graph_view import GraphView, concrete, elements
from edgedeploy.calibration.histogram import Histogram
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.progress import Progress

FeedsFactory = Callable[[], Iterable[Feeds]]


@dataclass
class Accumulator:
    """Running statistics of one tensor."""

    histogram: Histogram | None
    channels: bool = False
    peaks: NDArray[np.float64] | None = None
    minimum: float = np.inf
    maximum: float = -np.inf
    count: int = 0
    nonfinite: int = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take in a tensor of any shape; NaN and infinities are counted apart."""
        if self.channels and values.ndim > 1 and values.size:
            peaks = np.nan_to_num(
                np.abs(np.moveaxis(values, 1, 0)).reshape(values.shape[1], -1).max(axis=1), posinf=0.0
            )
            self.peaks = peaks.astype(np.float64) if self.peaks is None else np.maximum(self.peaks, peaks)
        values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = values[np.isfinite(values)]
            self.nonfinite += values.size - finite.size
            if finite.size == 0:
                return
            values, low, high = finite, float(finite.min()), float(finite.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.count += values.size
        if self.histogram is not None:
            self.histogram.add(values, max(abs(low), abs(high)))

    def statistics(self) -> TensorStatistics:
        return TensorStatistics(
            self.minimum, self.maximum, self.count, self.nonfinite, self.histogram, self.peaks
        )


@dataclass(frozen=True)
class Collected:
    """Statistics per tensor, and how they were gathered: `images` feeds in each of `passes` passes."""

    statistics: dict[str, TensorStatistics] = field(default_factory=dict)
    images: int = 0
    passes: int = 0


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

    `feeds_factory` is called once for every pass over the data and must yield the same feeds each time.
    `memory_mb` bounds the tensors alive at once; a single tensor above it is still collected, alone.
    `progress` is called with (feeds done, feeds in total or None) over all passes.

    Raises CalibrationError if there is no feed, a later pass yields another number of them, or the model does
    not run on one.
    """
    source = feeds_factory()
    total = len(source) if isinstance(source, Sized) else None
    iterator = iter(source)
    first = next(iterator, None)
    if first is None:
        raise CalibrationError(
            "there is no calibration data", "give images of the kind that the model will see"
        )
    groups = _groups(model, tensors, first, memory_mb << 20)
    total = None if total is None else total * len(groups)
    feeds_left: Iterable[Feeds] = _rejoined([first], iterator)
    del first, iterator, source
    images = done = 0
    statistics: dict[str, TensorStatistics] = {}
    for number, group in enumerate(groups):
        accumulators = {name: Accumulator(Histogram() if histograms else None, channels) for name in group}
        run = _runner(model, group)
        seen = 0
        for feeds in feeds_left:
            run(feeds, accumulators)
            seen, done = seen + 1, done + 1
            if progress is not None:
                progress(done, total)
        if number == 0:
            images, total = seen, seen * len(groups)
        elif seen != images:
            raise CalibrationError(
                f"pass {number + 1} over the calibration data gave {seen} inputs, the first {images}",
                "give a function that starts anew at every call, or raise calibration.memory_mb",
            )
        statistics |= {name: entry.statistics() for name, entry in accumulators.items()}
        feeds_left = feeds_factory() if number + 1 < len(groups) else ()
    return Collected(statistics, images, len(groups))


def _rejoined(first: list[Feeds], rest: Iterator[Feeds]) -> Iterator[Feeds]:
    """The first feed and the rest; unlike itertools.chain it lets go of the first."""
    yield first.pop()
    yield from rest


def _groups(model: onnx.ModelProto, tensors: Sequence[str], feeds: Feeds, budget: int) -> list[list[str]]:
    """Tensors in order, cut where one image's worth of them would exceed the budget in bytes."""
    view = GraphView(concrete(model, {name: value.shape for name, value in feeds.items()}))
    known = {name: elements(view.shapes.get(name)) for name in tensors}
    largest = max((size for size in known.values() if size is not None), default=0)
    groups: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        size = known[name]
        # A tensor of unknown size is taken to be as large as the largest known one.
        need = 4 * (largest if size is None else size)
        if groups[-1] and used + need > budget:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += need
    return groups


def _runner(
    model: onnx.ModelProto, tensors: Sequence[str]
) -> Callable[[Feeds, dict[str, Accumulator]], None]:
    """A function that runs one feed and adds the tensors to their accumulators, one by one."""
    fed = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in fed]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    if computed:
        del probe.graph.output[:]
        probe.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in computed
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # an arena keeps the peak of every image, and grows by doubling
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise CalibrationError(
            f"ONNX Runtime cannot run the model: {error}", "calibration needs it to run"
        ) from error
    wanted = {value.name for value in session.get_inputs()}

    def run(feeds: Feeds, accumulators: dict[str, Accumulator]) -> None:
        for name in tensors:
            if name in fed:
                accumulators[name].add(feeds[name])
        if not computed:
            return
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            for name, value in feeds.items()
            if name in wanted
        }
        try:
            outputs = list(session.run_with_ort_values(computed, values))
        except Exception as error:
            raise CalibrationError(
                f"the model does not run on a calibration input: {error}",
                "give data of the sizes that it takes, or one size for all with --size",
            ) from error
        outputs.reverse()
        for name in computed:  # popped, so that a value is freed before the next is copied out
            accumulators[name].add(outputs.pop().numpy())

    return run
