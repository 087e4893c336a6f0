"""A float32 model in the precision that a target runs: fp16 by a pass, int8, fp8 and int4 by calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.core.artifact_warnings import RANDOM_DATA
from edgedeploy.core.details import CalibrationDetails, Details, FloatNode
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.job import Job
from edgedeploy.core.onnx_header import operators
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision, Step

if TYPE_CHECKING:
    import onnx

    from edgedeploy.calibration import QuantizeResult
    from edgedeploy.calibration.collect.dataset import CalibrationData

CALIBRATED: tuple[Precision, ...] = ("int8", "fp8", "int4")  # precisions that need calibration data


@dataclass(frozen=True)
class Lowered:
    """A model in a lower precision.

    Attributes:
        artifact: the ONNX file.
        quantized: placement and ranges of INT8 and FP8; None for other precisions.
    """

    artifact: Artifact
    quantized: QuantizeResult | None = None


def lower(
    artifact: Artifact,
    precision: Precision,
    job: Job,
    out: Path,
    progress: Progress,
    statistics: Path,
    backend: str = "",
) -> Lowered:
    """Write a float32 artifact in another precision to `out`, with data and recipe of the job.

    `statistics` is the folder that keeps the statistics of calibration data between runs. `backend` is the
    runtime whose placement rules hold, see `placement_rules`.

    Raises CalibrationError, UnknownNameError for a node to keep in float, OutputError.
    """
    if precision in ("int8", "fp8"):
        data, rules = _calibration_data(artifact, job, statistics), placement_rules(job, backend)
        return _quantize(artifact, precision, job, data, rules, out, progress)
    if precision == "int4":
        return _quantize_weights(artifact, _calibration_data(artifact, job, statistics), out, progress)
    if precision == "fp16":
        from edgedeploy.export.half import to_fp16

        return Lowered(to_fp16(artifact, job.recipe.optimize, out))
    # The runtime computes in bfloat16 on CPUs: the file stays float32 and names the precision to run in.
    step = Step(name="lower", options={"precision": precision}, hits=1)
    return Lowered(artifact.saved_at(out, precision=precision, history=(*artifact.history, step)))


def placement_rules(job: Job, backend: str = "") -> str:
    """Name of a backend's rule set; by default of the target's first that is installed, else of its first."""
    from edgedeploy.backend import BACKENDS

    names = job.target.backends
    usable = (name for name in names if not BACKENDS.get(name).why_not())
    return job.target.rules(backend or next(usable, names[0]))


def sign_forms(artifact: Artifact, job: Job, folder: Path) -> dict[str, Artifact]:
    """Backend -> the form of a binary network with products of signs in INT8; empty for other networks."""
    if "int8" not in job.target.precisions or "Sign" not in {kind for kind, _ in operators(artifact.path)}:
        return {}
    from edgedeploy.backend import BACKENDS
    from edgedeploy.calibration.place.ruleset import load_rules
    from edgedeploy.export.signs import quantize_signs

    usable = [name for name in job.target.backends if not BACKENDS.get(name).why_not()]
    form_of = {name: load_rules(job.target.rules(name)).signs for name in usable}
    made = {
        form: quantize_signs(
            artifact, form, job.recipe.optimize, folder / f"{artifact.path.stem}.signs-{form}.onnx"
        )
        for form in set(form_of.values())
    }
    return {name: lowered for name, form in form_of.items() if (lowered := made[form]) is not None}


def _quantize(
    artifact: Artifact,
    precision: Precision,
    job: Job,
    data: CalibrationData,
    rules: str,
    out: Path,
    progress: Progress,
) -> Lowered:
    """INT8 with Q/DQ nodes, or FP8 with the same placement."""
    import onnx

    from edgedeploy.calibration import load_rules, quantize
    from edgedeploy.graphs.metadata import save_model

    options = job.recipe.calibration
    loaded = load_rules(rules).with_options(number=precision)
    artifact, model = _with_passes(artifact, onnx.load(artifact.path), loaded.passes, job)
    result = quantize(
        model,
        data,
        method=options.method,
        options=options.options,
        rules=loaded,
        corrections=options.corrections,
        memory_mb=options.memory_mb,
        keep_float=_kept_float(artifact, options.keep_float),
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
    return Lowered(save_model(result.model, lowered, out), result)


def _with_passes(
    artifact: Artifact, model: onnx.ModelProto, passes: Sequence[str], job: Job
) -> tuple[Artifact, onnx.ModelProto]:
    """The model after the passes that a rule set asks for, and the artifact with them in its history."""
    from edgedeploy.export.rewrite import Policy, run_passes

    options = job.recipe.optimize
    names = [name for name in passes if name not in options.skip]
    if not names:
        return artifact, model
    result = run_passes(artifact, [[*names, "fold-mul-add"]], Policy.of(options), model=model)
    if not any(step.hits and not step.reverted for step in result.steps if step.name in names):
        return artifact, model
    return artifact.model_copy(update={"history": (*artifact.history, *result.history())}), result.model


def _quantize_weights(artifact: Artifact, data: CalibrationData, out: Path, progress: Progress) -> Lowered:
    """Weights of matrix products in INT4; activations stay float."""
    import onnx

    from edgedeploy.calibration.weight_only import weight_only
    from edgedeploy.graphs.metadata import save_model

    result = weight_only(onnx.load(artifact.path), data, progress=progress)
    step = Step(name="quantize-weights", options={"inputs": data.report.used}, hits=len(result.layers))
    excluded = tuple(FloatNode(node=name, op="", reason=why) for name, why in result.left.items())
    details = artifact.details | Details(calibration=CalibrationDetails(excluded=excluded))
    lowered = artifact.with_step(step, precision="int4", details=details)
    return Lowered(save_model(result.model, lowered, out))


def _calibration_data(artifact: Artifact, job: Job, statistics: Path) -> CalibrationData:
    from edgedeploy.calibration.collect.dataset import CalibrationData, RandomFeeds

    options = job.recipe.calibration
    source = RandomFeeds(artifact, options.random, job.size) if job.data is None else job.data
    limit = options.random or options.limit
    return CalibrationData.of(artifact, source, limit, size=job.size, keep=statistics)


def _kept_float(artifact: Artifact, names: Sequence[str]) -> dict[str, str]:
    """Nodes that the user keeps in float -> why; raises UnknownNameError."""
    known = [name for _, name in operators(artifact.path)]
    for name in names:
        if name not in known:
            raise UnknownNameError("node", name, known)
    return dict.fromkeys(names, "the recipe keeps it in float")
