"""The three threads of the demo: one reads, one runs the network, the caller's thread writes pictures.

Windows work only in the caller's thread. Frames of a file wait for each other; of a live source only the
newest frame is kept.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.backend import Session
from edgedeploy.core.errors import SourceLostError, UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.demo.channel import Channel, Closed
from edgedeploy.demo.frames import Frame, as_rgb
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sources import Source
from edgedeploy.demo.views import View, write_text
from edgedeploy.task import Array

FILE_QUEUE = 4  # frames between two threads: enough to smooth their times, few enough for memory
STOP_S = 6.0  # slightly more than the timeout of a network source


@dataclass(frozen=True)
class DemoStats:
    """Counts and times of a run.

    Attributes:
        frames: pictures written.
        seconds: from the first read to the finished output; fps = frames / seconds.
        dropped: frames of a live source that newer ones replaced.
        age_ms_p50, age_ms_p95: time from reading a frame to writing its picture.
        model_ms_p50: time in the network per frame.
        path: the output; None for a window or null.
        interrupted: whether the user stopped the run.
    """

    frames: int
    seconds: float
    fps: float
    dropped: int
    age_ms_p50: float
    age_ms_p95: float
    model_ms_p50: float
    path: Path | None
    interrupted: bool


def check_limit(limit: int | None) -> None:
    """Raise UsageError unless the limit is a positive number of frames or None."""
    if limit is not None and limit < 1:
        raise UsageError(f"cannot show {limit} frames", "give --limit 1 or more")


class _Timed:
    """A session that sums the time of its runs; `take` returns the sum and resets it."""

    def __init__(self, session: Session) -> None:
        self.session, self.inputs, self.seconds = session, session.inputs, 0.0

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        begin = time.perf_counter()
        outputs = self.session(feeds)
        self.seconds += time.perf_counter() - begin
        return outputs

    def take(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass
class Pipeline:
    """One run: the state that its three threads share; `view(yuv)` is the view for YUV or RGB frames."""

    view: Callable[[bool], View]
    session: Session
    source: Source
    sink: Sink
    limit: int | None
    on_frame: Progress | None
    ages: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)

    def run(self) -> DemoStats:
        """Run until the source ends, the limit is reached, or the sink or the user stops it.

        If a camera or an address stops answering, the output is finished with the frames until then and
        SourceLostError is raised.
        """
        live = self.source.live
        frames: Channel[Frame] = Channel(1 if live else FILE_QUEUE, latest=live)
        results: Channel[tuple[Frame, View, Any]] = Channel(1 if live else FILE_QUEUE)
        workers = [
            threading.Thread(target=self._read, args=(frames,), name="read", daemon=True),
            threading.Thread(target=self._infer, args=(frames, results), name="infer", daemon=True),
        ]
        begin = time.perf_counter()
        interrupted = False
        lost: SourceLostError | None = None
        for worker in workers:
            worker.start()
        try:
            self._write(results, begin)
        except KeyboardInterrupt:
            interrupted = True
        except SourceLostError as error:
            lost = error
        finally:
            frames.cancel()
            results.cancel()
            workers[0].join(STOP_S)  # a dead camera may block this thread forever
            workers[1].join()
        self.sink.finish()
        seconds = time.perf_counter() - begin
        count = len(self.ages)
        if lost is not None:
            path = self.sink.path if count else None
            kept = f"; {path} holds the {count} frames until then" if path else ""
            raise SourceLostError(f"{lost}{kept}", lost.hint) from lost
        p50, p95 = (float(np.percentile(self.ages or [0.0], q)) * 1e3 for q in (50, 95))
        return DemoStats(
            frames=count,
            seconds=seconds,
            fps=count / seconds,
            dropped=frames.dropped,
            age_ms_p50=p50,
            age_ms_p95=p95,
            model_ms_p50=float(np.median(self.model or [0.0])) * 1e3,
            path=self.sink.path if count else None,
            interrupted=interrupted,
        )

    def _read(self, frames: Channel[Frame]) -> None:
        with _ending(frames), closing(self.source):
            for frame in self.source.frames():
                frames.put(frame)

    def _infer(self, frames: Channel[Frame], results: Channel[tuple[Frame, View, Any]]) -> None:
        session = _Timed(self.session)
        # A still image keeps its full color resolution; a camera needs speed.
        planar = importlib.util.find_spec("av") is not None
        with _ending(results):
            for frame in frames:
                video = not isinstance(frame.content, np.ndarray) or (self.source.live and planar)
                view = self.view(video)
                result = view.infer(session, frame)
                self.model.append(session.take())
                results.put((frame, view, result))

    def _write(self, results: Channel[tuple[Frame, View, Any]], begin: float) -> None:
        total = self.source.total
        if self.limit is not None:
            total = self.limit if total is None else min(total, self.limit)
        first: float | None = None
        for frame, view, result in results:
            picture = view.picture(frame, result)
            if self.sink.wants_text:
                picture = as_rgb(picture)
                age = (time.perf_counter() - frame.captured_at) * 1e3
                fps = len(self.ages) / max(1e-9, time.perf_counter() - begin)
                write_text(picture, f"{fps:.1f} fps  {age:.0f} ms old", bottom=True)
            first = frame.timestamp if first is None else first
            wanted = self.sink.write(picture, frame.timestamp - first, frame.name)
            self.ages.append(time.perf_counter() - frame.captured_at)
            if self.on_frame:
                self.on_frame(len(self.ages), total)
            if not wanted or len(self.ages) == self.limit:
                return


@contextmanager
def _ending(channel: Channel[Any]) -> Iterator[None]:
    """End the channel when the block ends, with the error of the block."""
    try:
        yield
    except Closed:
        channel.end()
    except BaseException as error:  # noqa: BLE001  the consumer raises it
        channel.end(error, after_items=isinstance(error, SourceLostError))
    else:
        channel.end()
