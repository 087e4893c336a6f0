"""`edgedeploy train`: a recipe on your data, into a folder; killed at any moment, it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import Reporter, command_line, print_json, print_next, print_table
from edgedeploy.cli.options import Json


def command(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe file, one that comes with the package by name (--list), or its model."),
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set, laid out as the recipe says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run; default: runs/RECIPE.")
    ] = None,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=VALUE", help="Edit of the recipe, e.g. optimizer.learning_rate=0.01."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that is in the folder.")
    ] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = 2000,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare examples.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to PyTorch.")] = 0,
    show: Annotated[
        bool, typer.Option("--list", help="List the recipes that come with the package.")
    ] = False,
    json: Json = False,
) -> None:
    from edgedeploy.core.errors import UsageError
    from edgedeploy.core.extras import require_train

    require_train()
    from edgedeploy.models.training.recipe import TrainingRecipe, bundled_recipes, find_recipe

    if show:
        recipes = [(name, TrainingRecipe.load(name)) for name in bundled_recipes()]
        columns = ("recipe", "experiment", "model", "steps")
        rows = [(n, r.experiment, r.model, r.all_steps) for n, r in recipes]
        if json:
            print_json([dict(zip(columns, row, strict=True)) for row in rows])
        else:
            print_table(columns, rows)
        return
    if not recipe:
        raise UsageError("no recipe", "name a file or one of: edgedeploy train --list")
    if data is None or not data.is_dir():
        raise UsageError(f"{data or '--data'} is not a folder", "name the data set's folder with --data")
    from edgedeploy.models.training.loop import Every
    from edgedeploy.models.training.runs import Run
    from edgedeploy.models.training.threads import use_threads

    use_threads(threads)
    folder = out or Path("runs") / find_recipe(recipe).stem
    chosen = TrainingRecipe.load(recipe, edits or ())
    run = Run(chosen, data, folder, resume=resume, every=Every(save_every, evaluate_every), workers=workers)
    leading = run.training.fabric.is_global_zero  # of those that `torchrun` started one speaks
    reporter = Reporter(quiet=json or not leading)
    with reporter.stage(f"train {chosen.model} on {data.name}") as stage:
        metrics: dict[str, float] = {}
        for progress in run.train():
            metrics = progress.metrics or metrics
            stage.progress(progress.step, chosen.all_steps)
            figures = {**progress.losses, **progress.metrics}
            reporter.note(
                f"step {progress.step}/{chosen.all_steps}  "
                + "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
    best = folder / ("best.safetensors" if metrics else "last.safetensors")
    if not leading:
        return
    if json:
        print_json({"folder": str(folder), "weights": str(best), "metrics": metrics})
        return
    print_next(command_line("export", chosen.model, "--weights", best, "-o", f"{chosen.model}.onnx"))
