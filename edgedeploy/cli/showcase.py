"""The whole way in front of the user: a zoo model in every precision, built, timed and scored on a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.cli.console import Reporter
from edgedeploy.cli.deploy import make_job
from edgedeploy.core.cache import Cache
from edgedeploy.core.details import GuardDetails
from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact
from edgedeploy.pipeline import deliver, run

SCORED_FRAMES = 12
# A demo is waited for: fewer frames, shorter timing and fewer mixes than `build --precision auto` takes.
EDITS = (
    "precision=auto", "capture.dynamic=true", "calibration.limit=32", f"guard.scored={SCORED_FRAMES}",
    "guard.seconds=1", "guard.rounds=2",
)  # fmt: skip


def deploy_fastest(
    model: str, source: str, target: str, folder: Path, reporter: Reporter
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Deploy `model` in the fastest precision and runtime within the budget, for the size of `source`.

    Returns the artifact, put into `folder`, and a row of figures for each candidate. Half of the clip's
    frames calibrate and the others score: for super-resolution, frames are shrunk, enlarged again and
    compared; in other tasks outputs are compared with the fp32 model's. Raises UsageError for a camera,
    BudgetError where no candidate keeps the budget.
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
    job = make_job(model, EDITS, target=target, data=Path(source), size=size)
    built = run(job, reporter, Cache())
    artifact = deliver(built, folder / f"{model}.{built.precision}.{target}{built.path.suffix}")
    return artifact, _rows(artifact.details.guard)


def _rows(report: GuardDetails) -> list[dict[str, Any]]:
    """The candidates that were timed, in figures for people."""
    timed = [(entry.milliseconds, entry) for entry in report.candidates if entry.milliseconds is not None]
    exact = [milliseconds for milliseconds, entry in timed if entry.precision == "fp32"]
    rows = []
    for milliseconds, entry in timed:
        speed = min(exact) / milliseconds if exact else 1.0
        row: dict[str, Any] = {
            "candidate": entry.name,
            "precision": entry.precision,
            "runtime": entry.backend,
            "p50 ms": f"{milliseconds:.1f}",
            "speed": f"{speed:.2f}x",
        }
        scores = entry.scores
        if "psnr_y" in scores:
            row["PSNR-Y dB"] = f"{scores['psnr_y']:.2f}"
            row["bicubic dB"] = f"{scores['psnr_y_bicubic']:.2f}"
        else:
            row["agreement"] = f"{scores['agreement']:.3f}"
        rows.append({**row, "verdict": entry.verdict})
    return rows
