"""`edgedeploy export`: capture a network as ONNX, prove it, and fold what can be folded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next
from edgedeploy.cli.options import Edits, Json, Out, Size, Weights


def command(
    source: Annotated[
        str, typer.Argument(help="Zoo model, package.module:factory, a .pt2 or an .onnx.", show_default=False)
    ],
    out: Out = None,
    size: Size = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Leave height and width open.")] = False,
    weights: Weights = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Images or a clip on which parity is checked besides random inputs.", show_default=False
        ),
    ] = None,
    exporter: Annotated[str, typer.Option(help="auto, dynamo or torchscript.")] = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="Run no graph passes.")] = False,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Build mean and std into the graph.")
    ] = False,
    uint8: Annotated[
        bool, typer.Option("--uint8", help="Take uint8 NHWC images; implies --preprocess.")
    ] = False,
    argmax: Annotated[
        bool, typer.Option("--argmax", help="End a segmentation model in class indices.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why candidates were not rewritten.")
    ] = False,
    edits: Edits = None,
    json: Json = False,
) -> None:
    from edgedeploy.cli.deploy import make_job, run_and_deliver
    from edgedeploy.cli.report import describe, explain_skips, print_passes

    height_width = parse_size(size)
    flags = [f"capture.exporter={exporter}"]
    if height_width:
        flags += [f"capture.height={height_width[0]}", f"capture.width={height_width[1]}"]
    flags += [
        f"{field}=true"
        for field, wanted in (
            ("capture.dynamic", dynamic),
            ("surgery.preprocess", preprocess or uint8),
            ("surgery.uint8_input", uint8),
            ("surgery.argmax", argmax),
        )
        if wanted
    ]
    reporter = Reporter(quiet=json)
    job = make_job(source, [*flags, *(edits or [])], weights=weights, data=data)
    artifact = run_and_deliver(job, "capture" if raw else "optimize", reporter, out, suffix=".onnx")
    if json:
        print_json(describe(artifact))
        return
    print_passes(artifact)
    if explain:
        explain_skips(job, reporter)
    print_next(
        command_line("build", artifact.path, "--target", "cpu"),
        command_line("quantize", artifact.path, "--data", "PHOTOS"),
    )
