"""From the words of a command line to a pipeline job, and from its result to a file with a sensible name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgedeploy.cli.console import Reporter, parse_bytes
from edgedeploy.cli.imports import require_export, require_surgery
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import check_writable
from edgedeploy.core.recipe import CalibrationOptions, Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import deliver, run
from edgedeploy.steps.base import Job

LEAST_MEMORY = 16 << 20  # what the recipe takes at least


def make_job(
    source: str,
    edits: Iterable[str],
    *,
    target: str = "cpu",
    data: Path | None = None,
    size: tuple[int, int] | None = None,
    weights: str | None = None,
    labeled: Path | None = None,
) -> Job:
    """A validated job; whatever is wrong with the words is said before any work begins."""
    recipe = Recipe().edited(edits)
    chosen = load_target(target)
    if recipe.precision not in (None, "auto", *chosen.precisions):
        raise UsageError(
            f"target {target} does not run {recipe.precision}", f"it runs {', '.join(chosen.precisions)}"
        )
    if data is not None and not data.exists():
        raise UsageError(f"{data} does not exist", "name an image folder, a video or an .npz with --data")
    if labeled is not None and not labeled.exists():
        raise UsageError(f"{labeled} does not exist", "name labeled images, laid out as `eval` wants them")
    # An ONNX file is deployed without torch: on a Jetson, say, from what was exported elsewhere.
    require = require_surgery if Path(source).suffix == ".onnx" else require_export
    require(data=data is not None)
    if recipe.calibration != CalibrationOptions():
        from edgedeploy.calibration import make_calibrator
        from edgedeploy.calibration.corrections import make_corrections

        make_calibrator(recipe.calibration.method, recipe.calibration.options)
        tools = recipe.calibration.corrections or ()
        make_corrections(tools if isinstance(tools, dict) else {name: {} for name in tools})
    return Job(source, recipe, chosen, data, weights, size, labeled=labeled)


def calibration_edits(limit: int | None, random_data: int | None, mem: str | None) -> list[str]:
    """Recipe edits of the options that the verbs with calibration share; raises UsageError for a bad size."""
    edits = [f"calibration.limit={limit}"] if limit else []
    edits += [f"calibration.random={random_data}"] if random_data else []
    if mem is not None:
        size = parse_bytes(mem)
        if size < LEAST_MEMORY:
            raise UsageError(f"--mem {mem} is too little", f"give {LEAST_MEMORY >> 20}M or more, better 512M")
        edits.append(f"calibration.memory_mb={size >> 20}")
    return edits


def run_and_deliver(
    job: Job, until: str, reporter: Reporter, out: Path | None, suffix: str | None = None
) -> Artifact:
    """Run the pipeline up to a step and put the result at `out`, by default in the current folder."""
    if out is not None and out.is_dir():
        raise UsageError(f"{out} is a folder", "name a file with -o")
    check_writable(out or Path.cwd() / ".artifact")  # the name by default is known at the end only
    artifact = run(job, reporter, Cache(), until)
    if out is None:
        stem = Path(job.source).stem if Path(job.source).suffix in {".onnx", ".pt2"} else artifact.model
        out = Path(stem + (suffix or f".{job.target.name}{artifact.path.suffix}"))
    return deliver(artifact, out)
