"""`edgedeploy quantize`: measure ranges on real data and write INT8 as explicit Q/DQ."""

from __future__ import annotations

from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next
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
    source: Annotated[str, typer.Argument(help="An .onnx, or a zoo model.", show_default=False)],
    data: Data = None,
    out: Out = None,
    target: TargetName = "cpu",
    method: Annotated[
        str | None, typer.Option(help="Calibrator: entropy, minmax, …", show_default=False)
    ] = None,
    random_data: RandomData = None,
    limit: Limit = None,
    mem: Memory = None,
    size: Size = None,
    weights: Weights = None,
    edits: Edits = None,
    json: Json = False,
) -> None:
    from edgedeploy.cli.deploy import calibration_edits, make_job, run_and_deliver
    from edgedeploy.cli.report import describe, print_quantization

    flags = ["precision=int8"]
    flags += [f"calibration.method={method}"] if method else []
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
    artifact = run_and_deliver(job, "lower", reporter, out, suffix=".int8.onnx")
    if json:
        print_json(describe(artifact))
        return
    print_quantization(artifact)
    print_next(command_line("build", artifact.path, "--target", target))
