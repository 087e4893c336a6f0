"""`edgedeploy eval`: the task's metric of an artifact, in the runtime that it will run in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next, print_table
from edgedeploy.cli.options import Json, Limit, Threads


def command(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifacts to score on the same data.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option(help="Images with their truth, laid out as the task wants, or a video.")
    ],
    limit: Limit = None,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    from edgedeploy.backends.pool import SessionPool
    from edgedeploy.core.caveats import caveats
    from edgedeploy.core.errors import UsageError
    from edgedeploy.core.spec import Artifact
    from edgedeploy.tasks.base import task_for

    if not data.exists():
        raise UsageError(f"{data} does not exist", "name a folder of images or a video with --data")
    reporter = Reporter(quiet=json)
    rows: list[dict[str, Any]] = []
    for path in artifacts:
        artifact = Artifact.load(path)
        task = task_for(artifact)
        with (
            reporter.stage(f"{path.name} on {data.name}") as stage,
            SessionPool(artifact, threads=threads) as pool,
        ):
            metrics = task.evaluate(pool, data, limit, stage.progress)
        for caveat in caveats(artifact):
            reporter.note(f"{path.name}: {caveat}")
        rows.append(
            {
                "artifact": str(path),
                "precision": artifact.precision,
                "metrics": metrics,
                "caveats": caveats(artifact),
            }
        )
    if json:
        print_json(rows)
        return
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    cells = [
        (row["artifact"], row["precision"], *(_format(row["metrics"].get(name)) for name in names))
        for row in rows
    ]
    print_table(("artifact", "precision", *names), cells)
    print_next(command_line("bench", *artifacts))


def _format(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if float(value).is_integer() else f"{value:.4f}"
