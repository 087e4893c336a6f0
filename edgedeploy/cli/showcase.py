"""The whole way in front of the user: a zoo model in fp32 and int8, built, timed and scored on a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.cli.console import Reporter
from edgedeploy.cli.deploy import make_job
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact
from edgedeploy.pipeline import deliver, run

SCORED_FRAMES = 12


def deploy_and_compare(
    model: str, source: str, target: str, threads: int, folder: Path, reporter: Reporter
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Deploy `model` in fp32 and int8 for the size of `source`: (int8 artifact, a row of figures each).

    The artifacts are put into `folder`. The clip itself calibrates and scores: for super-resolution, frames
    are shrunk, enlarged again and compared; other tasks find no truth in a clip, and get no score. Raises
    UsageError for a camera.
    """
    from edgedeploy.backends.pool import SessionPool
    from edgedeploy.bench import bench
    from edgedeploy.demo.sources import open_source
    from edgedeploy.tasks.base import task_for

    if not Path(source).exists():
        raise UsageError(
            f"{source} cannot calibrate an int8 model, which needs a file to read twice",
            f"name a clip with --source, or build first: edgedeploy build {model} --data PHOTOS",
        )
    clip = open_source(source)
    size = (clip.height, clip.width)
    clip.close()
    artifacts: list[Artifact] = []
    for precision in ("fp32", "int8"):
        reporter.note(f"{model}, {precision}")
        edits = [f"precision={precision}", "capture.dynamic=true", "calibration.limit=32"]
        job = make_job(model, edits, target=target, data=Path(source), size=size)
        built = run(job, reporter, Cache())
        artifacts.append(deliver(built, folder / f"{model}.{precision}.{target}{built.path.suffix}"))
    with reporter.stage("time both, interleaved"):
        report = bench([artifact.path for artifact in artifacts], threads=threads, size=size)
    rows = []
    for artifact, result in zip(artifacts, report.results, strict=True):
        row: dict[str, Any] = {
            "precision": artifact.precision,
            "runtime": artifact.backend,
            "p50 ms": f"{result.p50_ms:.1f}",
            "speed": f"{report.results[0].p50_ms / result.p50_ms:.2f}x",
        }
        task = task_for(artifact)
        if task.name == "super-resolution":
            with reporter.stage(f"score {artifact.precision}") as stage, SessionPool(artifact) as pool:
                metrics = task.evaluate(pool, Path(source), SCORED_FRAMES, stage.progress)
            row["PSNR-Y dB"] = f"{metrics['psnr_y']:.2f}"
            row["bicubic dB"] = f"{metrics['psnr_y_bicubic']:.2f}"
        rows.append(row)
    return artifacts[-1], rows
