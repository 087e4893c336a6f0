"""`edgedeploy eval`: the task's metric of an artifact in the runtime it will run in, or of a zoo model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgedeploy.cli.console import (
    Reporter,
    Stage,
    command_line,
    parse_size,
    print_json,
    print_next,
    print_table,
)
from edgedeploy.cli.options import Json, Limit, Size, TaskName, Threads

PYTORCH = "pytorch"


def command(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts to score on the same data; FILE.onnx@BACKEND opens one elsewhere, the name of a"
            " zoo model runs it in PyTorch.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path, typer.Option(help="Images with their truth, laid out as the task wants, or a video.")
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Of zoo models: bundled weights by name, or a file.", show_default=False),
    ] = None,
    task: TaskName = None,
    size: Size = None,
    limit: Limit = None,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    from edgedeploy.core.errors import UsageError

    if not data.exists():
        raise UsageError(f"{data} does not exist", "name a folder of images or a video with --data")
    named = [_source(name) for name in artifacts]
    if weights is not None and not any(path is None for path, _ in named):
        raise UsageError("--weights is for models of the zoo", "an artifact holds its own")
    if size is not None and task is None:
        raise UsageError("--size is for a file whose task is not known", "name that, too: --task")
    told = None if task is None else (task, parse_size(size))
    reporter = Reporter(quiet=json)
    rows: list[dict[str, Any]] = []
    for name, (path, backend) in zip(artifacts, named, strict=True):
        with reporter.stage(f"{name if path is None else path.name} on {data.name}") as stage:
            if path is None:
                rows.append(_zoo_model(name, weights, data, limit, threads, stage))
            else:
                rows.append(_artifact(path, backend, told, data, limit, threads, stage))
        for caveat in rows[-1].get("caveats", ()):
            reporter.note(f"{name}: {caveat}")
    if json:
        print_json(rows)
        return
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    cells = [
        (row["artifact"], row["precision"], row["backend"], *(_format(row["metrics"].get(n)) for n in names))
        for row in rows
    ]
    print_table(("artifact", "format", "backend", *names), cells, dispensable=("backend", "format"))
    files = [str(path) for path, _ in named if path is not None]
    if files:
        print_next(command_line("bench", *files))
    else:
        extra = ("--weights", weights) if weights else ()
        print_next(command_line("export", artifacts[0], *extra))


def _source(name: str) -> tuple[Path | None, str | None]:
    """The file that a name means and the backend to open it with; no file for a model of the zoo."""
    from edgedeploy.backends import BACKENDS
    from edgedeploy.core.errors import UnknownNameError

    path = Path(name)
    if path.exists():
        return path, None
    file, at, backend = name.rpartition("@")
    if at:
        if Path(file).is_file() and backend not in BACKENDS.names():
            raise UnknownNameError("backend", backend, BACKENDS.names())
        return Path(file), backend
    # A model's name is a word; anything else is a file, whose absence the reader of artifacts explains.
    return (path, None) if path.suffix or path.parent != Path() else (None, None)


def _artifact(
    path: Path,
    backend: str | None,
    told: tuple[str, tuple[int, int] | None] | None,
    data: Path,
    limit: int | None,
    threads: int,
    stage: Stage,
) -> dict[str, Any]:
    """Scores of one file; `told` is the task and size that the user names for those that do not say."""
    from edgedeploy.core.artifact_warnings import artifact_warnings
    from edgedeploy.core.spec import Artifact
    from edgedeploy.runtime.pool import SessionPool
    from edgedeploy.runtime.select import backend_for
    from edgedeploy.task import task_for, task_spec

    artifact = Artifact.load(path)
    if told is not None and told[0] != artifact.task.name:
        artifact = artifact.model_copy(update={"task": task_spec(*told, {})})
    task = task_for(artifact)
    with SessionPool(artifact, threads=threads, backend=backend) as pool:
        metrics = task.evaluate(pool, data, limit, stage.progress)
    return {
        "artifact": str(path),
        "precision": artifact.precision,
        "backend": backend or backend_for(artifact).name,
        "metrics": metrics,
        "caveats": artifact_warnings(artifact),
    }


def _zoo_model(
    name: str, weights: str | None, data: Path, limit: int | None, threads: int, stage: Stage
) -> dict[str, Any]:
    from edgedeploy.cli.imports import require_export

    require_export(data=True)
    from edgedeploy.models.training.measure import measure_weights

    metrics = measure_weights(name, weights, data, limit, stage.progress, threads=threads)
    return {"artifact": name, "precision": "fp32", "backend": PYTORCH, "metrics": metrics}


def _format(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if float(value).is_integer() else f"{value:.4f}"
