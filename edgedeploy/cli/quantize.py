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
    memory_mb,
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
    from edgedeploy.cli.report import describe, print_quantization
    from edgedeploy.core.recipe import parsed
    from edgedeploy.verbs.deploy import quantize

    artifact = quantize(
        source,
        data,
        out,
        target=target,
        method=method,
        random_data=random_data,
        limit=limit,
        memory_mb=memory_mb(mem),
        size=parse_size(size),
        weights=weights,
        recipe=parsed(edits or []),
        monitor=Reporter(quiet=json),
    )
    if json:
        print_json(describe(artifact))
        return
    print_quantization(artifact)
    print_next(command_line("build", artifact.path, "--target", target))
