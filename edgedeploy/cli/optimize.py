"""`edgedeploy optimize`: fold and clean an ONNX file, every pass proved as it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next
from edgedeploy.cli.imports import require_surgery
from edgedeploy.cli.options import Json, Limit, Out
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
    require_surgery(data=data is not None)
    from edgedeploy.cli.surgery import describe_surgery, print_skips, print_surgery
    from edgedeploy.steps.optimize_file import optimize

    reporter = Reporter(quiet=json)
    with reporter.stage("optimize, prove each pass" if not no_verify else "optimize, unproved") as stage:
        done = optimize(
            source,
            out,
            passes=_names(passes),
            skip=_names(skip) or (),
            pad_channels=pad_channels,
            target=target,
            data=data,
            limit=limit or 8,
            verify=not no_verify,
            simplify=simplify,
            split_at=_split(split_at),
            repro=repro,
            external_data=external_data,
            in_place=in_place,
        )
        stage.summary = f"{done.before.nodes} to {done.after.nodes} nodes"
    parts = [done] if done.tail is None else [done, done.tail]
    for part in parts:
        for note in (*part.notes, *part.result.problems()):
            reporter.note(note)
        for folder in part.repros:
            reporter.note(f"what was taken back is shown by {folder}")
    if json:
        print_json(describe_surgery(done))
        return
    for part in parts:
        print_surgery(part)
        if explain:
            print_skips(part.result.skipped)
    print_next(command_line("build", done.artifact.path, "--target", target or "cpu"))


def _split(text: str | None) -> list[str]:
    names = _names(text)
    if names == []:
        raise UsageError("--split-at names no tensor", "an ONNX viewer such as netron shows their names")
    return names or []


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
