"""`edgedeploy models`: the zoo with sizes, weights and papers."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Annotated, Any

import typer

from edgedeploy.cli.console import print_json, print_next, print_table
from edgedeploy.cli.options import Json
from edgedeploy.core.errors import UnknownNameError


def command(
    pattern: Annotated[str, typer.Argument(help="Glob over names, e.g. 'espcn*'.")] = "*",
    json: Json = False,
) -> None:
    from edgedeploy.cli.imports import require_export

    require_export()
    from edgedeploy.models import MODELS
    from edgedeploy.models.checkpoint import bundled_weights
    from edgedeploy.models.count import count_built

    names = [name for name in MODELS.names() if fnmatch(name, pattern)]
    if not names:
        raise UnknownNameError("model", pattern, MODELS.names())
    rows: list[dict[str, Any]] = []
    for name in names:
        info = MODELS.get(name)
        counts = count_built(info.build, info.input_shape)
        rows.append(
            {
                "name": name,
                "task": info.task.name,
                "input": "x".join(map(str, info.input_shape)),
                "parameters": counts.params,
                "macs": counts.macs,
                "weights": bundled_weights(name),
                "paper": info.paper,
            }
        )
    if json:
        print_json(rows)
        return
    columns = ("model", "task", "input", "params", "MACs", "weights")
    cells = [
        (
            row["name"],
            row["task"],
            row["input"],
            f"{row['parameters'] / 1e6:.3f} M",
            f"{row['macs'] / 1e9:.2f} G",
            ", ".join(row["weights"]) or "none bundled",
        )
        for row in rows
    ]
    print_table(columns, cells)
    print_next(f"edgedeploy export {names[0]} -o {names[0]}.onnx")
