"""`edgedeploy build`: compile for a target, in the precision that pays there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, parse_size, print_json
from edgedeploy.cli.options import (
    Data,
    Edits,
    Json,
    Limit,
    Memory,
    Out,
    RandomData,
    Size,
    TargetName,
    TaskName,
    Weights,
    memory_mb,
)


def command(
    source: Annotated[
        str, typer.Argument(help="An .onnx (exported or quantized), or a zoo model.", show_default=False)
    ],
    target: TargetName = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, bf16, fp16, int8, or auto: all are tried; default: the target's.", show_default=False
        ),
    ] = None,
    data: Data = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="What auto may cost, e.g. 'miou>=-0.3', 'agreement>=0.985', 'p50<20ms'."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labeled images that auto scores on; default: a part of --data."),
    ] = None,
    task: TaskName = None,
    report: Annotated[
        Path | None, typer.Option(help="Write what auto found to .md, .json or .html.", show_default=False)
    ] = None,
    out: Out = None,
    random_data: RandomData = None,
    limit: Limit = None,
    mem: Memory = None,
    size: Size = None,
    weights: Weights = None,
    edits: Edits = None,
    json: Json = False,
) -> None:
    from edgedeploy.cli.build_report import check_report, print_build, write_report
    from edgedeploy.cli.report import describe
    from edgedeploy.core.recipe import parsed
    from edgedeploy.core.target import load_target
    from edgedeploy.verbs.deploy import build

    check_report(report, precision)
    reporter = Reporter(quiet=json)
    artifact = build(
        source,
        target,
        out,
        precision=precision,
        data=data,
        budget=budget or (),
        labels=labels,
        task=task,
        random_data=random_data,
        limit=limit,
        memory_mb=memory_mb(mem),
        size=parse_size(size),
        weights=weights,
        recipe=parsed(edits or []),
        monitor=reporter,
    )
    if report is not None:
        write_report(artifact, report)
    if json:
        print_json(describe(artifact))
        return
    device = load_target(target)
    if precision is None and artifact.precision == device.default_precision and device.precision_note:
        reporter.note(f"{artifact.precision} because: {device.precision_note}")
    print_build(artifact)
