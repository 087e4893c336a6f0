"""`edgedeploy models`: the zoo by task, with sizes, weights and papers."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Annotated

import typer

from edgedeploy.cli.console import print_json, print_next, print_table
from edgedeploy.cli.options import Json
from edgedeploy.core.errors import UnknownNameError


def command(
    pattern: Annotated[str, typer.Argument(help="Glob over names, e.g. 'espcn*'.")] = "*",
    json: Json = False,
) -> None:
    from edgedeploy.models.catalog import read_catalog

    catalog = read_catalog()
    rows = [row for row in catalog if fnmatch(row["name"], pattern)]
    if not rows:
        raise UnknownNameError("model", pattern, [row["name"] for row in catalog])
    if json:
        print_json(rows)
        return
    # One table a task: with the task as a column the table is wider than 80 characters, and cells fold.
    for task in sorted({row["task"] for row in rows}):
        cells = [
            (
                row["name"],
                row["input"].partition("x")[2],  # the batch is 1
                f"{row['parameters'] / 1e6:.3f} M",
                f"{row['macs'] / 1e9:.2f} G",
                ", ".join(row["weights"]) or "-",
            )
            for row in rows
            if row["task"] == task
        ]
        print_table(("model", "input", "params", "MACs", "weights"), cells, title=task)
    print_next(f"edgedeploy export {rows[0]['name']} -o {rows[0]['name']}.onnx")
