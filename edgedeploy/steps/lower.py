"""To the precision that the target runs: fp16 by a pass, int8, fp8 and int4 by calibration and Q/DQ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.cache import data_digest, statistics_root
from edgedeploy.core.caveats import RANDOM_DATA, caveats
from edgedeploy.core.details import CalibrationDetails, Details, FloatNode
from edgedeploy.core.errors import CalibrationError, UnknownNameError, UsageError
from edgedeploy.core.onnx_header import operators
from edgedeploy.core.progress import Progress
from edgedeploy.core.relabel import relabeled
from edgedeploy.core.spec import Artifact, Precision, Step
from edgedeploy.steps.base import Job, PipelineStep

if TYPE_CHECKING:
    import onnx

    from edgedeploy.calibration import QuantizeResult
    from edgedeploy.calibration.collect.dataset import CalibrationData

QUANTIZED = ("int8", "fp8", "int4")  # what needs calibration data


def check_precision(job: Job, until: str) -> None:
    """Say at once what would fail only after minutes of work."""
    if job.recipe.precision == "auto":
        _check_auto(job, until)
        return
    precision = job.recipe.precision or (job.target.default_precision if until == "build" else None)
    if precision is not None and precision not in job.target.precisions:
        raise UsageError(
            f"target {job.target.name} does not run {precision}",
            f"it runs {', '.join(job.target.precisions)}",
        )
    if Path(job.source).suffix.lower() == ".onnx":
        precision = precision if Artifact.load(job.source).precision == "fp32" else None
    noise = job.recipe.calibration.random
    if until in {"lower", "build"} and precision in QUANTIZED and job.data is None and not noise:
        raise CalibrationError(
            f"{precision} needs calibration data: a few dozen typical images",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz; or --random-data 8, for a trial only: "
            "random data gives random accuracy",
        )
    if job.data is not None and noise:
        raise UsageError("there is data, and random data too", "leave out --random-data, or --data")


def _check_auto(job: Job, until: str) -> None:
    if until == "lower":
        raise UsageError("auto is decided by building", "use edgedeploy build, or name a precision")
    if until == "build" and job.data is None:
        raise CalibrationError(
            "auto needs data: to calibrate int8 on some of it, and to score what was built on the rest",
            "add --data FOLDER, --data clip.mp4 or --data inputs.npz",
        )


def _wanted(artifact: Artifact, job: Job) -> bool:
    if job.recipe.precision == "auto":  # the guard lowers to all of them
        return False
    wanted = _precision(artifact, job)
    if artifact.precision not in ("fp32", wanted):
        raise UsageError(
            f"{artifact.model} is {artifact.precision} already and cannot become {wanted}",
            "start from the fp32 model",
        )
    return wanted != artifact.precision


def _precision(artifact: Artifact, job: Job) -> Precision:
    """As asked; else what the model is lowered to already; else what the target is best at."""
    if job.recipe.precision is not None and job.recipe.precision != "auto":
        return job.recipe.precision
    return artifact.precision if artifact.precision != "fp32" else job.target.default_precision


def _decides(artifact: Artifact, job: Job) -> Any:
    wanted = _precision(artifact, job)
    if wanted not in QUANTIZED:
        return {"precision": wanted, "surgery": job.recipe.surgery.model_dump()}
    return {
        "precision": wanted,
        # Memory decides how often the data is read, and nothing else.
        "calibration": job.recipe.calibration.model_dump(exclude={"memory_mb"}),
        "rules": _rules(job),
        "data": None if job.data is None else data_digest(job.data),
        "size": job.size,
    }


def _lower(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    wanted = _precision(artifact, job)
    out = folder / artifact.path.name
    if wanted in ("int8", "fp8"):
        return _to_int8(artifact, job, out, progress)
    if wanted == "int4":
        return _to_int4(artifact, job, out, progress)
    if wanted == "fp16":
        from edgedeploy.export.surgery import to_fp16

        return to_fp16(artifact, job.recipe.surgery, out)
    # bfloat16 is the runtime's business on CPUs: the file stays float32 and says what it is to run in.
    step = Step(name="lower", options={"precision": wanted}, hits=1)
    return relabeled(artifact, out, precision=wanted, history=(*artifact.history, step))


def _rules(job: Job) -> str:
    """Rule set of the first backend of the target that is installed; of the first where none is."""
    from edgedeploy.backend import BACKENDS

    names = job.target.backends
    backend = next((name for name in names if not BACKENDS.get(name).why_not()), names[0])
    return job.target.rules(backend)


def _to_int8(artifact: Artifact, job: Job, out: Path, progress: Progress) -> Artifact:
    return to_int8(artifact, job, out, progress, statistics_root(out.parent))[0]


def to_int8(
    artifact: Artifact,
    job: Job,
    out: Path,
    progress: Progress,
    statistics: Path,
) -> tuple[Artifact, QuantizeResult]:
    """The artifact in INT8 at `out`, and how it came about.

    `statistics` is where those of the data are kept between runs. FP8 where that is the job's
    precision: the same placement.
    """
    import onnx

    from edgedeploy.calibration import load_rules, quantize
    from edgedeploy.graphs.metadata import save_model

    options, rules = job.recipe.calibration, _rules(job)
    data = _data(artifact, job, statistics)
    precision: Precision = "fp8" if job.recipe.precision == "fp8" else "int8"
    loaded = load_rules(rules).with_options(number=precision)
    artifact, model = _for_kernels(artifact, onnx.load(artifact.path), loaded.passes, job)
    result = quantize(
        model,
        data,
        method=options.method,
        options=options.options,
        rules=loaded,
        corrections=options.corrections,
        memory_mb=options.memory_mb,
        keep_float=_kept(artifact, options.keep_float),
        progress=progress,
    )
    placement = result.report.placement
    step = Step(
        name="quantize",
        options={
            "method": options.method,
            "rules": rules,
            "inputs": data.report.used,
            "data": RANDOM_DATA if job.data is None else job.data.name,
        },
        hits=len(placement.quantized),
        milliseconds=result.report.seconds * 1e3,
    )
    calibration = CalibrationDetails(
        excluded=tuple(FloatNode(node=n.node, op=n.op, reason=n.reason) for n in placement.excluded),
        problems=(*data.report.warnings, *result.report.problems),
        data=data.report.summary(),
        random=job.data is None,
    )
    details = artifact.details | Details(calibration=calibration)
    lowered = artifact.with_step(step, precision=precision, details=details)
    return save_model(result.model, lowered, out), result


def _for_kernels(
    artifact: Artifact, model: onnx.ModelProto, passes: Sequence[str], job: Job
) -> tuple[Artifact, onnx.ModelProto]:
    """The model after the passes that a rule set asks for, and the artifact with them in its history."""
    from edgedeploy.export.runner import optimize

    surgery = job.recipe.surgery
    names = [name for name in passes if name not in surgery.skip]
    if not names:
        return artifact, model
    result = optimize(model, [*names, "fold-mul-add"], verify=surgery.verify, seeds=surgery.seeds)
    if not any(step.hits and not step.reverted for step in result.steps if step.name in names):
        return artifact, model
    return artifact.model_copy(update={"history": (*artifact.history, *result.history())}), result.model


def _to_int4(artifact: Artifact, job: Job, out: Path, progress: Progress) -> Artifact:
    import onnx

    from edgedeploy.calibration.weight_only import weight_only
    from edgedeploy.graphs.metadata import save_model

    data = _data(artifact, job, statistics_root(out.parent))
    result = weight_only(onnx.load(artifact.path), data, progress=progress)
    step = Step(name="quantize-weights", options={"inputs": data.report.used}, hits=len(result.layers))
    excluded = tuple(FloatNode(node=name, op="", reason=why) for name, why in result.left.items())
    details = artifact.details | Details(calibration=CalibrationDetails(excluded=excluded))
    lowered = artifact.with_step(step, precision="int4", details=details)
    return save_model(result.model, lowered, out)


def _data(artifact: Artifact, job: Job, statistics: Path) -> CalibrationData:
    from edgedeploy.calibration.collect.dataset import CalibrationData, RandomFeeds

    options = job.recipe.calibration
    source = RandomFeeds(artifact, options.random, job.size) if job.data is None else job.data
    limit = options.random or options.limit
    return CalibrationData.of(artifact, source, limit, size=job.size, keep=statistics)


def _kept(artifact: Artifact, names: Sequence[str]) -> dict[str, str]:
    """Nodes that the user keeps in float -> why; raises UnknownNameError."""
    known = [name for _, name in operators(artifact.path)]
    for name in names:
        if name not in known:
            raise UnknownNameError("node", name, known)
    return dict.fromkeys(names, "the recipe keeps it in float")


def _notes(artifact: Artifact) -> list[str]:
    return [*caveats(artifact), *artifact.details.calibration.problems]


LOWER = PipelineStep("lower", "lower to the target's precision", _lower, _decides, _notes, _wanted)
