"""A zoo model in every precision, built, timed and scored on a clip: what `edgedeploy demo` shows first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.cli.console import Reporter
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import UsageError
from edgedeploy.core.recipe import parsed
from edgedeploy.core.spec import Artifact
from edgedeploy.pipeline import deliver, run
from edgedeploy.task import Task, task_for
from edgedeploy.verbs.deploy import make_job

# A user waits for a demo: fewer frames, shorter timing and fewer mixes than `build --precision auto` takes.
EDITS = (
    "precision=auto", "capture.dynamic=true", "calibration.limit=32", "guard.scored=12", "guard.seconds=1",
    "guard.rounds=2",
)  # fmt: skip


def deploy_fastest(
    model: str, source: str, target: str, folder: Path, reporter: Reporter
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Deploy `model` in the fastest precision and runtime within the budget, for the size of `source`.

    Returns the artifact, put into `folder`, and a row of figures for each candidate. Half of the clip's
    frames calibrate, the others score: by the task's metric where it makes labels from frames, else by
    agreement with the fp32 model. Raises UsageError for a camera, BudgetError where no candidate keeps the
    budget.
    """
    from edgedeploy.demo.sources import open_source

    if not Path(source).exists():
        raise UsageError(
            f"{source} cannot calibrate an int8 model, which needs a file to read twice",
            f"name a clip with --source, or build first: edgedeploy build {model} --data PHOTOS",
        )
    clip = open_source(source)
    size = (clip.height, clip.width)
    clip.close()
    job = make_job(model, parsed(EDITS), target=target, data=Path(source), size=size)
    built = run(job, reporter, Cache())
    artifact = deliver(built, folder / f"{model}.{built.precision}.{target}{built.path.suffix}")
    return artifact, comparison(artifact)


def comparison(artifact: Artifact) -> list[dict[str, Any]]:
    """The candidates whose time is known, in figures for people."""
    task = task_for(artifact)
    timed = [(c.milliseconds, c) for c in artifact.details.guard.candidates if c.milliseconds is not None]
    exact = [milliseconds for milliseconds, candidate in timed if candidate.precision == "fp32"]
    rows = []
    for milliseconds, candidate in timed:
        scores = candidate.scores
        columns = [column for column in task.score_columns if column[0] in scores] or Task.score_columns
        speed = min(exact) / milliseconds if exact else 1.0
        rows.append(
            {
                "candidate": candidate.name,
                "precision": candidate.precision,
                "runtime": candidate.backend,
                "p50 ms": f"{milliseconds:.1f}",
                "speed": f"{speed:.2f}x",
                **{title: f"{scores[name]:{form}}" for name, title, form in columns},
                "status": candidate.status,
                "verdict": candidate.verdict,
            }
        )
    return rows
