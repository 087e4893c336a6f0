"""Time several open models in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedeploy.backend import Feeds, Session
from edgedeploy.bench.statistics import (
    Times,
    median_interval,
    noise_note,
    percentiles,
    speedup_interval,
)
from edgedeploy.core.progress import Progress


@dataclass(frozen=True)
class Rounds:
    """How many timed rounds: as many as fit into `seconds`, at least `least` and at most `most`."""

    seconds: float = 5.0
    least: int = 10
    most: int = 1000

    @staticmethod
    def exactly(count: int) -> Rounds:
        return Rounds(least=count, most=count)

    def wanted(self, done: int, seconds: float) -> int:
        """The number of rounds in all, where `done` rounds took `seconds`."""
        return min(self.most, max(self.least, round(done * self.seconds / seconds)))


@dataclass(frozen=True)
class BenchResult:
    """Figures of one model; times in milliseconds of the caller's clock, from feeds in to outputs out.

    Attributes:
        name: what the user called it.
        runs: timed runs.
        low_ms, high_ms: 95 % confidence interval of the median (p50).
        throughput: samples per second, batch / mean.
        speedup, speedup_low, speedup_high: p50 of the first model over this one's, with its 95 % interval.
        note: what is suspicious about the measurement or the artifact.
        times_ms: every timed run, in order.
        device_p50_ms: median by the device's own clock, None where it has none.
        precision, backend: as its artifact says.
        load_ms: time to open.
        memory_mb: rise of peak memory while it was opened and first run.
    """

    name: str
    runs: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    low_ms: float
    high_ms: float
    throughput: float
    speedup: float
    speedup_low: float
    speedup_high: float
    note: str
    times_ms: tuple[float, ...]
    device_p50_ms: float | None = None
    precision: str = ""
    backend: str = ""
    load_ms: float | None = None
    memory_mb: float | None = None


def time_interleaved(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Feeds],
    rounds: Rounds,
    *,
    warmup: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[BenchResult]:
    """Time open models in rounds, each round in another order, after `warmup` untimed rounds.

    The first session is the baseline of the speed-ups. The garbage collector is off meanwhile.
    """
    order = np.random.default_rng(seed)
    names = list(sessions)
    times: dict[str, list[float]] = {name: [] for name in names}
    device: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warmup):
        for name in names:
            sessions[name](feeds[name])
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        done, wanted = 0, rounds.least
        while done < wanted:
            for index in order.permutation(len(names)):
                name = names[index]
                session, feed = sessions[name], feeds[name]
                start = time.perf_counter()
                session(feed)
                times[name].append((time.perf_counter() - start) * 1e3)
                if session.device_ms is not None:
                    device[name].append(session.device_ms)
            done += 1
            wanted = rounds.wanted(done, time.perf_counter() - begin)
            if progress:
                progress(done, max(done, wanted))
    finally:
        if collecting:
            gc.enable()
    baseline = np.asarray(times[names[0]])
    return [_result(n, sessions[n], np.asarray(times[n]), device[n], baseline, seed) for n in names]


def _result(
    name: str, session: Session, times: Times, device: list[float], baseline: Times, seed: int
) -> BenchResult:
    p = percentiles(times)
    low, high = median_interval(times, seed)
    slower, faster = speedup_interval(baseline, times, seed)
    mean = float(times.mean())
    return BenchResult(
        name=name,
        runs=len(times),
        mean_ms=mean,
        min_ms=float(times.min()),
        p50_ms=p[50],
        p90_ms=p[90],
        p95_ms=p[95],
        p99_ms=p[99],
        low_ms=low,
        high_ms=high,
        throughput=1e3 * _batch(session) / mean,
        speedup=float(np.median(baseline)) / p[50],
        speedup_low=slower,
        speedup_high=faster,
        note=noise_note(times),
        times_ms=tuple(float(t) for t in times),
        device_p50_ms=float(np.median(device)) if device else None,
    )


def _batch(session: Session) -> int:
    shape = session.inputs[0].shape if session.inputs else ()
    return shape[0] if shape and isinstance(shape[0], int) else 1
