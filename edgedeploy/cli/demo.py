"""`edgedeploy demo`: an artifact on a camera or a clip; a zoo model is deployed first, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next, print_table
from edgedeploy.cli.options import Json, Limit, TargetName, Threads

JSON_ALONE = ("precision", "runtime", "status", "verdict")  # the name and the sentence above say it


def command(
    model: Annotated[
        str, typer.Argument(help="A built artifact, or a zoo model to deploy first.", show_default=False)
    ],
    source: Annotated[str, typer.Option(help="Camera index, file, folder, or rtsp/http URL.")] = "0",
    sink: Annotated[
        str, typer.Option(help="window, a file (.mp4, .mkv), a folder for pictures, or null.")
    ] = "window",
    view: Annotated[str, typer.Option(help="result or side-by-side.")] = "result",
    limit: Limit = None,
    target: TargetName = "cpu",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    from edgedeploy.core.artifact_warnings import artifact_warnings
    from edgedeploy.core.spec import Artifact

    reporter = Reporter(quiet=json)
    rows: list[dict[str, object]] = []
    if Path(model).suffix or Path(model).exists():
        artifact = Artifact.load(model)
        for line in artifact_warnings(artifact):
            reporter.note(line)
    else:
        from edgedeploy.cli.showcase import deploy_fastest

        folder = Path(sink).parent if Path(sink).suffix else Path()
        artifact, rows = deploy_fastest(model, source, target, folder, reporter)
    from edgedeploy.demo.run import run_demo

    with reporter.stage(f"{artifact.path.name} on {source}") as stage:
        stats = run_demo(
            artifact, source, sink, view=view, limit=limit, threads=threads, on_frame=stage.progress
        )
    if json:
        print_json({"comparison": rows, "demo": vars(stats)})
        return
    if rows:
        names = [name for name in rows[0] if name not in JSON_ALONE]
        print_table(names, [tuple(row[name] for name in names) for row in rows])
    cells = {
        "frames": stats.frames,
        "fps": f"{stats.fps:.1f}",
        "dropped": stats.dropped,
        "model p50 ms": f"{stats.model_ms_p50:.1f}",
        "frame age p50 ms": f"{stats.age_ms_p50:.1f}",
        "frame age p95 ms": f"{stats.age_ms_p95:.1f}",
        "written": stats.path or "nothing",
    }
    print_table(("demo", ""), cells.items())
    beside = ("demo", artifact.path, "--source", source, "--sink", sink, "--view", "side-by-side")
    if view != "side-by-side":
        print_next(command_line(*beside))
    print_next(command_line("bench", artifact.path))
