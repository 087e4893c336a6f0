"""`edgedeploy bench`: artifacts side by side in one interleaved run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next, print_table
from edgedeploy.cli.options import Json, Size, Threads

# What fits a terminal; a --report and --json have every figure.
SHOWN = {"model", "precision", "backend", "p50 ms", "p95", "p99", "device ms", "per second", "speed-up"}

DISPENSABLE = ("device ms", "per second", "p95", "precision", "p99")  # in a narrow terminal, in this order
# Tasks of which a camera's pictures show something; a plain tensor has no score to ask for instead.
LIVE = {"segmentation", "super-resolution", "tensor", "text-detection"}


def command(
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="Artifacts; the first is the baseline. FILE.onnx@BACKEND opens one elsewhere.",
            show_default=False,
        ),
    ],
    size: Size = None,
    threads: Threads = 0,
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds; default: 3 seconds for each artifact.", show_default=False),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="End with exit code 4 unless met, e.g. 'p99<20ms'.", show_default=False),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report: .md, .json or .csv.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    from edgedeploy.verbs.measure import bench

    reporter = Reporter(quiet=json)
    with reporter.stage("interleaved rounds") as stage:
        result = bench(
            artifacts,
            size=parse_size(size),
            threads=threads,
            runs=runs,
            budget=budget or (),
            report=report,
            progress=stage.progress,
        )
    if json:
        print_json(result.to_dict())
    else:
        shown = [index for index, name in enumerate(result.columns) if name in SHOWN]
        print_table(
            [result.columns[index] for index in shown],
            [[row[index] for index in shown] for row in result.rows],
            dispensable=DISPENSABLE,
        )
        for line in result.results:
            if line.note:
                reporter.note(f"{line.name}: {line.note}")
        reporter.note(", ".join(f"{name} {value}" for name, value in result.machine.items()))
        print_next(_next_step(artifacts[-1]))
    result.check()


def _next_step(name: str) -> str:
    """A demo where a camera's pictures make sense, else the score."""
    from edgedeploy.core.spec import Artifact
    from edgedeploy.runtime.select import split_backend

    path, _ = split_backend(name)
    if Artifact.load(path).task.name in LIVE:
        return command_line("demo", path, "--source", "0")
    return command_line("eval", path, "--data", "FOLDER")
