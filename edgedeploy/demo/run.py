"""Run a model on a camera, a video or images: open the parts, connect them, leave nothing half-written."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgedeploy.backend import OpenOptions, Session
from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.demo.pipeline import DemoStats, Pipeline
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sinks import open_sink
from edgedeploy.demo.sources import Source, open_source
from edgedeploy.demo.views import make_view
from edgedeploy.runtime.select import open_artifact
from edgedeploy.task import Task, task_for


def run_demo(
    artifact: Artifact,
    source: str | Source,
    sink: str | Sink = "window",
    *,
    view: str = "result",
    limit: int | None = None,
    session: Session | None = None,
    backend: str | None = None,
    threads: int = 0,
    on_frame: Progress | None = None,
) -> DemoStats:
    """Run a model on every frame of a source and hand the pictures to a sink.

    Args:
        artifact: the model; a dynamic one is opened for the size of the source.
        source, sink: as open_source and open_sink take them, or opened.
        view: "result" or "side-by-side".
        limit: stop after so many frames.
        session: an open session of the artifact; by default it is opened here with `backend` and `threads`.
        on_frame: called with (frames written, frames in all where known).

    Raises UsageError, DeviceError or OutputError of the parts; then no half-written file is left. Ctrl-C ends
    the run like the end of the source.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"cannot show {limit} frames", "give --limit 1 or more")
    task = task_for(artifact)
    reader = open_source(source) if isinstance(source, str) else source
    writer: Sink | None = sink if isinstance(sink, Sink) else None
    opened, run = session, None
    try:
        make_view(view, task, yuv=False)
        writer = writer or open_sink(_distinct(str(sink), reader), reader.fps, reader.pixel_aspect)
        opened = opened or _open(artifact, task, reader, backend, threads)
        run = Pipeline(partial(make_view, view, task), opened, reader, writer, limit, on_frame)
        return run.run()
    except BaseException:
        if run is None:  # a run closes its source itself, in the thread that reads it
            reader.close()
        if writer is not None:
            writer.abort()
        raise
    finally:
        if opened is not None and session is None:
            opened.close()


def _open(artifact: Artifact, task: Task, source: Source, backend: str | None, threads: int) -> Session:
    shapes = {} if task.input.is_static else {task.input.name: _shape(task, source.height, source.width)}
    return open_artifact(artifact, OpenOptions(shapes=shapes, threads=threads), backend)


def _shape(task: Task, height: int, width: int) -> tuple[int, ...]:
    """The input's shape for frames of this size: only what the model leaves open follows the frames."""
    asked = task.input_shape(height, width)
    return tuple(
        fixed if isinstance(fixed, int) else size for fixed, size in zip(task.input.shape, asked, strict=True)
    )


def _distinct(sink: str, source: Source) -> str:
    """Refuse to write over what is being read."""
    target, origin = Path(sink), Path(source.uri)
    if sink not in ("window", "null") and target.exists() and origin.exists() and target.samefile(origin):
        raise UsageError(f"{sink} is the source itself", "choose another place with --sink")
    return sink
