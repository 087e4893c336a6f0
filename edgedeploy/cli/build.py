"""`edgedeploy build`: compile for a target, in the precision that pays there."""

from __future__ import annotations

from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, parse_size, print_json, print_next
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
    Weights,
)


def command(
    source: Annotated[
        str, typer.Argument(help="An .onnx (exported or quantised), or a zoo model.", show_default=False)
    ],
    target: TargetName = "cpu",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16 or int8; default: the target's.", show_default=False)
    ] = None,
    data: Data = None,
    out: Out = None,
    random_data: RandomData = None,
    limit: Limit = None,
    mem: Memory = None,
    size: Size = None,
    weights: Weights = None,
    edits: Edits = None,
    json: Json = False,
) -> None:
    from edgedeploy.cli.deploy import calibration_edits, make_job, run_and_deliver
    from edgedeploy.cli.report import describe, next_step, print_build

    flags = [f"precision={precision}"] if precision else []
    flags += calibration_edits(limit, random_data, mem)
    reporter = Reporter(quiet=json)
    job = make_job(
        source,
        [*flags, *(edits or [])],
        target=target,
        data=data,
        size=parse_size(size),
        weights=weights,
    )
    artifact = run_and_deliver(job, "build", reporter, out)
    if json:
        print_json(describe(artifact))
        return
    print_build(artifact)
    if precision is None and artifact.precision == job.target.default_precision and job.target.precision_note:
        reporter.note(f"{artifact.precision} because: {job.target.precision_note}")
    print_next(next_step(artifact))
