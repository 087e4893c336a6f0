"""`edgedeploy export`: capture a network as ONNX, prove it, and fold what can be folded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next
from edgedeploy.cli.options import Edits, Json, Out, Size, Weights

if TYPE_CHECKING:
    from edgedeploy.export.report import PassReport


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
    from edgedeploy.cli.passes import print_skips
    from edgedeploy.cli.report import describe, print_passes
    from edgedeploy.core.recipe import parsed
    from edgedeploy.verbs.deploy import export

    reports: list[PassReport] = []
    artifact = export(
        source,
        out,
        size=parse_size(size),
        dynamic=dynamic,
        weights=weights,
        data=data,
        exporter=exporter,
        raw=raw,
        preprocess=preprocess,
        uint8=uint8,
        argmax=argmax,
        recipe=parsed(edits or []),
        explain=reports.append,
        monitor=Reporter(quiet=json),
    )
    if json:
        print_json(describe(artifact))
        return
    print_passes(artifact)
    if explain:
        for report in reports:
            print_skips(report)
    print_next(
        command_line("build", artifact.path, "--target", "cpu"),
        command_line("quantize", artifact.path, "--data", "PHOTOS"),
    )
