"""`edgedeploy soup`: one network out of several trainings, by averaging their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedeploy.cli.console import command_line, print_json, print_next, print_table
from edgedeploy.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedeploy.models.state_file import State


def command(
    weights: Annotated[
        list[Path], typer.Argument(help="Weights of runs that began alike.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Weights file to write.")],
    model: Annotated[
        str, typer.Option(help="With --data: the zoo model, to keep only what improves its metric.")
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Data that the metric is measured on; not the test set.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Which one; default: the task's own.")] = "",
    json: Json = False,
) -> None:
    from edgedeploy.core.errors import UsageError
    from edgedeploy.core.extras import require_train

    require_train()
    from edgedeploy.models.training.measure import measure, task_of
    from edgedeploy.models.training.soup import cook

    if bool(model) != (data is not None):
        raise UsageError("--model and --data belong together", "give both for a greedy soup, or neither")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} is no name for weights", f"-o {out.with_suffix('.safetensors')}")
    score: Callable[[State], float] | None = None
    if data is not None:
        from edgedeploy.models.checkpoint import load_checkpoint

        first = load_checkpoint(model, weights[0])
        name = metric or task_of(first.info).metric_name

        def measured(state: State) -> float:
            first.model.load_state_dict(state)
            found = measure(first.model, first.info, data)
            if name not in found:
                raise UsageError(f"{model} has no metric {name}", f"it has {', '.join(found)}")
            return found[name]

        score = measured

    rows = cook(weights, out, score)
    if json:
        of = [{"weights": str(path), "kept": kept, "metric": value} for path, kept, value in rows]
        print_json({"weights": str(out), "of": of})
        return
    cells = [
        (str(path), "yes" if kept else "no", "" if value != value else f"{value:.4f}")
        for path, kept, value in rows
    ]
    print_table(("weights", "in the soup", metric or "metric"), cells)
    print_next(command_line("export", model or "MODEL", "--weights", out))
