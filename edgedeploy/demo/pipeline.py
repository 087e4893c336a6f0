"""The three threads of the demo: one reads, one runs the network, the caller's own writes pictures.

Pictures are written in the caller's thread because windows have to live there. Frames of a file wait for each
other; of a live source only the newest is kept.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.backend import Session
from edgedeploy.core.errors import SourceLostError
from edgedeploy.core.progress import Progress
from edgedeploy.demo.channel import Channel, Closed
from edgedeploy.demo.frames import Frame, as_rgb
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sources import Source
from edgedeploy.demo.views import View, write_text
from edgedeploy.task import Array

FILE_QUEUE = 4  # frames waiting between two threads: enough to even out, little enough to keep memory small
STOP_S = 6.0  # a little more than a network source waits for an answer


@dataclass(frozen=True)
class DemoStats:
    """What a run of the demo was like.

    Attributes:
        frames: pictures written.
        seconds: from the first read to the finished output.
        fps: frames / seconds.
        dropped: frames of a live source that newer ones replaced.
        age_ms_p50, age_ms_p95: time from reading a frame to having written it.
        model_ms_p50: time in the network a frame.
        path: what was written, None for a window or null.
        interrupted: whether the user stopped it.
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


class _Timed:
    """A session that remembers how long it worked since it was last asked."""

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
    """One run: everything that its three threads share.

    Attributes:
        view: what to show, given whether frames are YUV pictures or RGB.
    """

    view: Callable[[bool], View]
    session: Session
    source: Source
    sink: Sink
    limit: int | None
    on_frame: Progress | None
    ages: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)

    def run(self) -> DemoStats:
        """Until the source ends, the limit is reached, the sink asks to stop or the user does.

        Where a camera or an address stops answering, the output is finished with the frames until then, and
        SourceLostError says so.
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
            workers[0].join(STOP_S)  # it may hang in a dead camera; the network always comes to an end
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
        # A still image keeps its full color resolution; of a camera speed is wanted.
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


class _ending:  # noqa: N801  used like a function
    """End a channel when the block ends, with its error if it raised one."""

    def __init__(self, channel: Channel[Any]) -> None:
        self.channel = channel

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        # Of a lost source, the frames that it gave are still to be written.
        lost = isinstance(error, SourceLostError)
        self.channel.end(None if isinstance(error, Closed) else error, after_items=lost)
        return True
