"""`edgedeploy eval`: the task's metric of an artifact in the runtime it will run in, or of a zoo model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import (
    Reporter,
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
    from edgedeploy.verbs.measure import evaluate

    scores = evaluate(
        artifacts,
        data,
        weights=weights,
        task=task,
        size=parse_size(size),
        limit=limit,
        threads=threads,
        monitor=Reporter(quiet=json),
    )
    if json:
        print_json([asdict(entry) for entry in scores])
        return
    metrics = list(dict.fromkeys(name for entry in scores for name in entry.metrics))
    rows = [
        (entry.artifact, entry.precision, entry.backend, *(_format(entry.metrics.get(n)) for n in metrics))
        for entry in scores
    ]
    print_table(("artifact", "format", "backend", *metrics), rows, dispensable=("backend", "format"))
    files = [entry.artifact for entry in scores if entry.backend != PYTORCH]
    if files:
        print_next(command_line("bench", *files))
    else:
        extra = ("--weights", weights) if weights else ()
        print_next(command_line("export", artifacts[0], *extra))


def _format(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if float(value).is_integer() else f"{value:.4f}"
