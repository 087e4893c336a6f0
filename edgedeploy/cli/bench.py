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
    from edgedeploy.bench import bench

    if report is not None:
        _check_report(report)
    for name in artifacts:
        _check_backend(name)
    reporter = Reporter(quiet=json)
    height_width = parse_size(size)
    with reporter.stage("interleaved rounds") as stage:
        result = bench(
            artifacts,
            threads=threads,
            runs=runs,
            size=height_width,
            budget=budget or (),
            progress=stage.progress,
        )
    if report is not None:
        result.write(report)
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


def _check_backend(name: str) -> None:
    """Refuse `FILE@BACKEND` with a backend that is none; a file may have an @ in its name."""
    from edgedeploy.backends import BACKENDS
    from edgedeploy.core.errors import UnknownNameError

    file, at, backend = name.rpartition("@")
    if at and backend not in BACKENDS.names() and not Path(name).exists() and Path(file).is_file():
        raise UnknownNameError("backend", backend, BACKENDS.names())


def _check_report(path: Path) -> None:
    """Refuse a report that could not be written, before the minutes of measuring."""
    from edgedeploy.bench.report import require_report_name
    from edgedeploy.core.files import check_writable

    require_report_name(path)
    check_writable(path)


def _next_step(name: str) -> str:
    """A demo where a camera's pictures make sense, else the score."""
    from edgedeploy.core.spec import Artifact

    file, at, _ = name.rpartition("@")
    path = name if not at or Path(name).exists() else file
    if Artifact.load(path).task.name in LIVE:
        return command_line("demo", path, "--source", "0")
    return command_line("eval", path, "--data", "FOLDER")
