"""To the precision that the target runs: fp16 by a pass, int8 by calibration and Q/DQ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgedeploy.core.cache import data_digest
from edgedeploy.core.errors import CalibrationError, UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.core.relabel import relabelled
from edgedeploy.core.spec import Artifact, Precision, Step
from edgedeploy.steps.base import Job, PipelineStep


def check_precision(job: Job, until: str) -> None:
    """Say at once what would fail only after minutes of work."""
    precision = job.recipe.precision or (job.target.default_precision if until == "build" else None)
    if precision is not None and precision not in job.target.precisions:
        raise UsageError(
            f"target {job.target.name} does not run {precision}",
            f"it runs {', '.join(job.target.precisions)}",
        )
    if Path(job.source).suffix.lower() == ".onnx":
        precision = precision if Artifact.load(job.source).precision == "fp32" else None
    if until in {"lower", "build"} and precision == "int8" and job.data is None:
        raise CalibrationError(
            "int8 needs calibration data: a few dozen typical images",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz (random data gives random accuracy)",
        )


def _wanted(artifact: Artifact, job: Job) -> bool:
    wanted = _precision(artifact, job)
    if artifact.precision not in ("fp32", wanted):
        raise UsageError(
            f"{artifact.model} is {artifact.precision} already and cannot become {wanted}",
            "start from the fp32 model",
        )
    return wanted != artifact.precision


def _precision(artifact: Artifact, job: Job) -> Precision:
    """As asked; else what the model is lowered to already; else what the target is best at."""
    if job.recipe.precision is not None:
        return job.recipe.precision
    return artifact.precision if artifact.precision != "fp32" else job.target.default_precision


def _decides(artifact: Artifact, job: Job) -> Any:
    wanted = _precision(artifact, job)
    if wanted != "int8":
        return {"precision": wanted, "surgery": job.recipe.surgery.model_dump()}
    assert job.data is not None  # noqa: S101  `check_precision` refused it
    return {
        "precision": wanted,
        "calibration": job.recipe.calibration.model_dump(),
        "rules": _rules(job),
        "data": data_digest(job.data),
        "size": job.size,
    }


def _lower(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    wanted = _precision(artifact, job)
    out = folder / artifact.path.name
    if wanted == "int8":
        return _to_int8(artifact, job, out, progress)
    if wanted == "fp16":
        from edgedeploy.export.surgery import to_fp16

        return to_fp16(artifact, job.recipe.surgery, out)
    # bfloat16 is the runtime's business on CPUs: the file stays float32 and says what it is to run in.
    step = Step(name="lower", options={"precision": wanted}, hits=1)
    return relabelled(artifact, out, precision=wanted, history=(*artifact.history, step))


def _rules(job: Job) -> str:
    """Rule set of the first backend of the target that is installed; of the first where none is."""
    from edgedeploy.backends.base import BACKENDS

    names = job.target.backends
    backend = next((name for name in names if not BACKENDS.get(name).why_not()), names[0])
    return job.target.rules(backend)


def _to_int8(artifact: Artifact, job: Job, out: Path, progress: Progress) -> Artifact:
    import onnx

    from edgedeploy.calibration import quantize
    from edgedeploy.calibration.data import DataReport, calibration_feeds
    from edgedeploy.export.metadata import save_model
    from edgedeploy.tasks.base import task_for

    assert job.data is not None  # noqa: S101  `check_precision` refused it
    task, options, data, seen = task_for(artifact), job.recipe.calibration, job.data, DataReport()
    rules, names = _rules(job), tuple(spec.name for spec in artifact.inputs)

    def feeds() -> Iterator[Mapping[str, Any]]:
        return calibration_feeds(
            data,
            task.preprocess,
            options.limit,
            inputs=names,
            specs=artifact.inputs,
            size=job.size,
            report=seen,
        )

    result = quantize(
        onnx.load(artifact.path),
        feeds,
        method=options.method,
        options=options.options,
        rules=rules,
        corrections=options.corrections,
        memory_mb=options.memory_mb,
        progress=progress,
    )
    placement = result.report.placement
    step = Step(
        name="quantize",
        options={"method": options.method, "rules": rules, "inputs": seen.used, "data": data.name},
        hits=len(placement.quantized),
        milliseconds=result.report.seconds * 1e3,
    )
    calibration = {
        "excluded": [dataclasses.asdict(note) for note in placement.excluded],
        "problems": [*seen.warnings, *result.report.problems],
    }
    lowered = artifact.with_step(
        step, precision="int8", details={**artifact.details, "calibration": calibration}
    )
    return save_model(result.model, lowered, out)


def _notes(artifact: Artifact) -> list[str]:
    return [str(problem) for problem in (artifact.details.get("calibration") or {}).get("problems", [])]


LOWER = PipelineStep("lower", "lower to the target's precision", _lower, _decides, _notes, _wanted)
