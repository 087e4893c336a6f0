"""Run a model on a camera, a video or images and write or show the results."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgedeploy.backend import OpenOptions, Session
from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.demo.pipeline import DemoStats, Pipeline, check_limit
from edgedeploy.demo.sink import Sink
from edgedeploy.demo.sinks import open_sink
from edgedeploy.demo.sources import Source, open_source
from edgedeploy.demo.views import check_view, make_view
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
    """Run a model on every frame of a source and pass the pictures to a sink.

    Args:
        artifact: the model; a dynamic one is opened for the size of the source.
        source, sink: arguments of open_source and open_sink, or opened objects.
        view: "result" or "side-by-side".
        limit: number of frames.
        session: an open session of the artifact; None opens one with `backend` and `threads`.
        on_frame: called with (frames written, total or None).

    Raises UsageError, DeviceError or OutputError, and leaves no partial file. Ctrl-C ends the run like the
    end of the source.
    """
    check_limit(limit)
    check_view(view)
    task = task_for(artifact)
    reader = open_source(source) if isinstance(source, str) else source
    writer: Sink | None = sink if isinstance(sink, Sink) else None
    opened, run = session, None
    try:
        writer = writer or open_sink(_distinct(str(sink), reader), reader.fps, reader.pixel_aspect)
        opened = opened or _open(artifact, task, reader, backend, threads)
        run = Pipeline(partial(make_view, view, task), opened, reader, writer, limit, on_frame)
        return run.run()
    except BaseException:
        if run is None:  # a run closes its source in the thread that reads it
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
    """The input's shape for frames of this size: fixed dimensions stay, dynamic ones follow the frames."""
    asked = task.input_shape(height, width)
    return tuple(
        fixed if isinstance(fixed, int) else size for fixed, size in zip(task.input.shape, asked, strict=True)
    )


def _distinct(sink: str, source: Source) -> str:
    """Raise UsageError if the sink would overwrite the source."""
    target, origin = Path(sink), Path(source.uri)
    if sink not in ("window", "null") and target.exists() and origin.exists() and target.samefile(origin):
        raise UsageError(f"{sink} is the source itself", "choose another place with --sink")
    return sink
