"""`edgedeploy optimize`: fold and clean an ONNX file, every pass proved as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next
from edgedeploy.cli.options import Json, Limit, Out, names
from edgedeploy.core.errors import UsageError

Names = Annotated[str | None, typer.Option(metavar="A,B", show_default=False, help="Run these passes only.")]
Skip = Annotated[str | None, typer.Option(metavar="A,B", show_default=False, help="Leave these passes out.")]


def command(
    source: Annotated[Path, typer.Argument(help="An .onnx file.", show_default=False)],
    out: Out = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write over the input file.")] = False,
    passes: Names = None,
    skip: Skip = None,
    pad_channels: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pad channels between convolutions to a multiple of N.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TARGET", help="Replace what this device lacks, too.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Real inputs to prove on: images, a video or an .npz.", show_default=False),
    ] = None,
    limit: Limit = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Prove nothing.")] = False,
    simplify: Annotated[
        str | None,
        typer.Option(
            metavar="TOOL",
            help="First run onnxslim, onnxsim or onnxoptimizer, proved too.",
            show_default=False,
        ),
    ] = None,
    split_at: Annotated[
        str | None,
        typer.Option(
            metavar="TENSOR,…",
            help="Cut the model in two at these tensors; what follows goes to <out>.tail.onnx.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why candidates were not rewritten.")
    ] = False,
    repro: Annotated[
        Path | None,
        typer.Option(
            help="Folder for models that show what a pass broke; default: beside the output.",
            show_default=False,
        ),
    ] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights in a file beside the model, as over 2 GB.")
    ] = False,
    json: Json = False,
) -> None:
    from edgedeploy.cli.passes import describe_optimized, print_optimized
    from edgedeploy.verbs.optimize import optimize

    cut = names(split_at)
    if cut == []:
        raise UsageError("--split-at names no tensor", "an ONNX viewer such as netron shows their names")
    reporter = Reporter(quiet=json)
    done = optimize(
        source,
        out,
        passes=names(passes),
        skip=names(skip) or (),
        pad_channels=pad_channels,
        target=target,
        data=data,
        limit=limit or 8,
        verify=not no_verify,
        simplify=simplify,
        split_at=cut or (),
        repro=repro,
        external_data=external_data,
        in_place=in_place,
        monitor=reporter,
    )
    parts = [done] if done.tail is None else [done, done.tail]
    for folder in (folder for part in parts for folder in part.report.repros):
        reporter.note(f"what was reverted is shown by {folder}")
    if json:
        print_json(describe_optimized(done))
        return
    for part in parts:
        print_optimized(part, explain=explain)
    print_next(command_line("build", done.artifact.path, "--target", target or "cpu"))
