"""`export`, `quantize` and `build`: the pipeline up to a step, and its result in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import UsageError
from edgedeploy.core.extras import require_export, require_onnx
from edgedeploy.core.files import check_writable
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import CalibrationOptions, Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import Monitor, Silent, Stage, deliver, run

if TYPE_CHECKING:
    from edgedeploy.export.report import PassReport

Size = tuple[int, int]
Fields = Mapping[str, Any]
NONE: Fields = {}


def export(
    source: Path | str,
    out: Path | str | None = None,
    *,
    size: Size | None = None,
    dynamic: bool = False,
    weights: str | None = None,
    data: Path | str | None = None,
    exporter: str = "auto",
    raw: bool = False,
    preprocess: bool = False,
    uint8: bool = False,
    argmax: bool = False,
    recipe: Fields = NONE,
    explain: Callable[[PassReport], None] | None = None,
    monitor: Monitor[Stage] | None = None,
) -> Artifact:
    """Capture a network as ONNX, compare it with PyTorch, and run the graph passes.

    Args:
        source: a zoo model, "package.module:factory", a .pt2 or an .onnx.
        out: the file to write; by default in the current folder, `<model>.onnx`.
        size: (height, width) in pixels; None takes the model's own.
        dynamic: leave height and width open.
        weights: bundled weights by name, a checkpoint file, or "random".
        data: images or a clip on which parity is checked besides random inputs.
        exporter: "auto", "dynamo" or "torchscript".
        raw: run no graph passes.
        preprocess: build mean and std into the graph.
        uint8: take uint8 NHWC images; implies `preprocess`.
        argmax: end a segmentation model in class indices.
        recipe: other fields of the recipe by path, e.g. {"capture.opset": 21}; see docs/recipe.md.
        explain: receives the report of the graph passes that were run.
        monitor: receives the progress and notes.

    Raises the EdgeDeployError family.
    """
    height, width = size or (None, None)
    fields = {
        "capture.exporter": exporter,
        "capture.height": height,
        "capture.width": width,
        "capture.dynamic": dynamic,
        "optimize.preprocess": preprocess or uint8,
        "optimize.uint8_input": uint8,
        "optimize.argmax": argmax,
        **recipe,
    }
    job = make_job(source, fields, weights=weights, data=data)
    until = "capture" if raw else "optimize"
    return _run_to_file(job, until, out, suffix=".onnx", explain=explain, monitor=monitor)


def quantize(
    source: Path | str,
    data: Path | str | None = None,
    out: Path | str | None = None,
    *,
    target: str = "cpu",
    method: str | None = None,
    random_data: int | None = None,
    limit: int | None = None,
    memory_mb: int | None = None,
    size: Size | None = None,
    weights: str | None = None,
    recipe: Fields = NONE,
    monitor: Monitor[Stage] | None = None,
) -> Artifact:
    """Measure ranges on data and write INT8 as explicit Q/DQ.

    Args:
        source: an .onnx, or a zoo model.
        data: calibration data: an image folder, a video, or an .npz.
        out: the file to write; by default in the current folder, `<source>.int8.onnx`.
        target: the device, a file of targets/.
        method: the calibrator, a file of calibration/methods/; by default the recipe's.
        random_data: calibrate on so many inputs of noise instead; accuracy is then meaningless.
        limit: most inputs to use.
        memory_mb: memory for collecting statistics, MiB.
        size: (height, width) in pixels for models of dynamic size.
        weights, recipe, monitor: as in `export`.

    Raises CalibrationError where there is no data, and the rest of the EdgeDeployError family.
    """
    fields = {
        "precision": "int8",
        **_given({"calibration.method": method}),
        **_calibration(limit, random_data, memory_mb),
        **recipe,
    }
    job = make_job(source, fields, target=target, data=data, size=size, weights=weights)
    return _run_to_file(job, "lower", out, suffix=".int8.onnx", monitor=monitor)


def build(
    source: Path | str,
    target: str = "cpu",
    out: Path | str | None = None,
    *,
    precision: str | None = None,
    data: Path | str | None = None,
    budget: Sequence[str] = (),
    labels: Path | str | None = None,
    task: str | None = None,
    random_data: int | None = None,
    limit: int | None = None,
    memory_mb: int | None = None,
    size: Size | None = None,
    weights: str | None = None,
    recipe: Fields = NONE,
    monitor: Monitor[Stage] | None = None,
) -> Artifact:
    """Compile a model for a target: an engine, or the model in the fastest runtime that agrees.

    Args:
        source: an .onnx, exported or quantized, or a zoo model.
        precision: "fp32", "bf16", "fp16", "int8", or "auto": all are tried; None takes the target's default.
        budget: what "auto" may cost, e.g. "miou>=-0.3", "agreement>=0.985", "p50<20ms".
        labels: labeled images that "auto" scores on; by default a part of `data`.
        task: what an .onnx from elsewhere does, a file of tasks/.
        target, data, out, random_data, limit, memory_mb, size, weights, recipe, monitor: as in `quantize`.

    Raises the EdgeDeployError family.
    """
    fields = {
        **_given({"precision": precision, "task.name": task, "guard.budget": tuple(budget) or None}),
        **_calibration(limit, random_data, memory_mb),
        **recipe,
    }
    job = make_job(source, fields, target=target, data=data, size=size, weights=weights, labeled=labels)
    return _run_to_file(job, "build", out, monitor=monitor)


def make_job(
    source: Path | str,
    fields: Fields,
    *,
    target: str = "cpu",
    data: Path | str | None = None,
    size: Size | None = None,
    weights: str | None = None,
    labeled: Path | str | None = None,
) -> Job:
    """A job whose options were checked before any work begins; `fields` are the recipe's, by path."""
    source = str(source)
    recipe = Recipe().changed(fields)
    device = load_target(target)
    data, labeled = (None if path is None else Path(path) for path in (data, labeled))
    if data is not None and not data.exists():
        raise UsageError(f"{data} does not exist", "name an image folder, a video or an .npz with --data")
    if labeled is not None and not labeled.exists():
        raise UsageError(f"{labeled} does not exist", "name labeled images, laid out as `eval` wants them")
    # An ONNX file is deployed without torch: on a Jetson, say, from what was exported elsewhere.
    require = require_onnx if Path(source).suffix == ".onnx" else require_export
    require(data=data is not None)
    if recipe.calibration != CalibrationOptions():
        from edgedeploy.calibration import make_calibrator
        from edgedeploy.calibration.correction import make_corrections

        make_calibrator(recipe.calibration.method, recipe.calibration.options)
        tools = recipe.calibration.corrections or ()
        make_corrections(tools if isinstance(tools, dict) else {name: {} for name in tools})
    return Job(source, recipe, device, data, weights, size, labeled=labeled)


def _calibration(limit: int | None, random_data: int | None, memory_mb: int | None) -> dict[str, Any]:
    """Recipe fields of the options that verbs with calibration share."""
    return _given(
        {
            "calibration.limit": limit,
            "calibration.random": random_data,
            "calibration.memory_mb": memory_mb,
        }
    )


def _given(fields: Fields) -> dict[str, Any]:
    """The fields that have a value; the recipe's defaults hold for the others."""
    return {name: value for name, value in fields.items() if value is not None}


def _run_to_file(
    job: Job,
    until: str,
    out: Path | str | None,
    *,
    suffix: str | None = None,
    explain: Callable[[PassReport], None] | None = None,
    monitor: Monitor[Stage] | None = None,
) -> Artifact:
    """Run the pipeline up to a step and put the result at `out`, by default in the current folder."""
    out = None if out is None else Path(out)
    if out is not None and out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file with -o")
    check_writable(out or Path.cwd() / ".artifact")  # the name by default is known at the end only
    artifact = run(job, monitor or Silent(), Cache(), until)
    if out is None:
        stem = Path(job.source).stem if Path(job.source).suffix in {".onnx", ".pt2"} else artifact.model
        out = Path(stem + (suffix or f".{job.target.name}{artifact.path.suffix}"))
    if explain is not None:
        from edgedeploy.export.report import PassReport

        report = PassReport.beside(artifact.path)
        if report is not None:
            explain(report)
    return deliver(artifact, out)
