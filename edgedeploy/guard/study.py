"""What each layer costs and saves in INT8, and which to keep in float for a budget: a proposal, no proof.

Noise is measured on emulated INT8. Time is the difference of two profiled builds where the target runs here,
else a roofline of its figures. What is proposed is decided by `build --precision auto`, which measures it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.steps.base import Job

if TYPE_CHECKING:
    from edgedeploy.calibration.mix.emulate import Emulator
    from edgedeploy.calibration.mix.sensitivity import Sensitivity


@dataclass
class Study:
    """Findings.

    Attributes:
        sensitivity: noise, agreement and, with labels, the metric of each layer alone in INT8.
        savings: milliseconds that each layer saves in INT8; empty where nothing is known of the target.
        savings_are: how they were come by, in words.
        kept: for a budget, layers to keep in float -> why; None where none was given.
        excluded: nodes that are in float anyway -> why.
    """

    sensitivity: Sensitivity
    savings: dict[str, float] = field(default_factory=dict)
    savings_are: str = ""
    kept: dict[str, str] | None = None
    excluded: dict[str, str] = field(default_factory=dict)


def study(
    artifact: Artifact,
    job: Job,
    folder: Path,
    statistics: Path,
    *,
    images: int,
    budgets: tuple[AccuracyBudget, ...] = (),
    progress: Progress,
) -> Study:
    """Quantize a float artifact in `folder`, and measure its layers on `images` of the calibration inputs.

    With `job.labeled` the task's metric is measured too, on as many labeled images. Raises UsageError for a
    budget that needs labels where there are none.
    """
    from edgedeploy.calibration.mix.sensitivity import measure
    from edgedeploy.guard.score import Scorer
    from edgedeploy.steps.lower import to_int8
    from edgedeploy.task import task_for

    if any(budget.needs_labels for budget in budgets) and job.labeled is None:
        raise UsageError(
            "such a budget needs labels", "name labeled images with --labels, or use agreement>=0.98"
        )
    assert job.data is not None  # noqa: S101  the command asks for it
    lowered, result = to_int8(artifact, job, folder / artifact.path.name, progress, statistics)
    inputs = list(Scorer(artifact, job.data, images, job.size).feeds())
    task = task_for(artifact)
    layers = result.report.placement.quantized
    found, emulator = measure(
        result.float_model, result.model, layers, inputs, agreement=task.agreement, progress=progress
    )
    judge = _Judge(artifact, emulator, inputs, job.labeled, images)
    if job.labeled is not None:
        found = judge.with_metric(found)
    known = Study(found, excluded={note.node: note.reason for note in result.report.placement.excluded})
    known.savings, known.savings_are = _savings(artifact, lowered, job, result.float_model, folder)
    if budgets:
        known.kept = _proposal(known, judge, budgets)
    return known


@dataclass
class _Judge:
    """Scores of emulated mixes."""

    artifact: Artifact
    emulator: Emulator
    inputs: Sequence[Mapping[str, Any]]
    labeled: Path | None
    images: int

    def metrics(self, on: Iterable[str]) -> dict[str, float]:
        from edgedeploy.task import task_for

        if self.labeled is None:
            return {}
        active = set(on)
        return dict(
            task_for(self.artifact).evaluate(
                lambda feeds: self.emulator.run(feeds, active), self.labeled, self.images
            )
        )

    def with_metric(self, found: Sensitivity) -> Sensitivity:
        """The task's metric of every layer alone in INT8."""
        from edgedeploy.task import task_for

        name = task_for(self.artifact).metric_name
        layers = tuple(
            dataclasses.replace(layer, metric=self.metrics((layer.name,)).get(name)) for layer in found.layers
        )
        exact, whole = self.metrics(()).get(name), self.metrics(self.emulator.layers).get(name)
        return dataclasses.replace(found, layers=layers, metric=whole, metric_float=exact)

    def enough(self, kept: Sequence[str], budgets: tuple[AccuracyBudget, ...]) -> bool:
        from edgedeploy.guard.score import agreement_scores, misses
        from edgedeploy.task import task_for

        on = set(self.emulator.layers) - set(kept)
        pairs = [(self.emulator.run(feed, ()), self.emulator.run(feed, on)) for feed in self.inputs]
        scores = {**agreement_scores(task_for(self.artifact), pairs), **self.metrics(on)}
        return not misses(budgets, scores, self.metrics(()))


def _proposal(known: Study, judge: _Judge, budgets: tuple[AccuracyBudget, ...]) -> dict[str, str]:
    from edgedeploy.calibration.mix.mixed import float_order, least_prefix, reason

    order, _ = float_order(known.sensitivity, known.savings)
    names = [layer.name for layer in order]
    count = least_prefix(names, lambda kept: judge.enough(kept, budgets))
    return {layer.name: reason(layer, known.savings.get(layer.name)) for layer in order[:count]}


def _savings(
    artifact: Artifact, lowered: Artifact, job: Job, float_model: Any, folder: Path
) -> tuple[dict[str, float], str]:
    """Per layer, of INT8 over what the target would take else; and how that is known."""
    from edgedeploy.calibration.mix.costs import layer_costs, layer_names
    from edgedeploy.guard.candidates import run_shapes

    shapes = run_shapes(artifact, job)
    costs = layer_costs(float_model, shapes)
    figures, usual = job.target.figures, job.target.default_precision
    if figures.memory_gb_per_s is None:
        return _profiled(artifact, lowered, job, layer_names(float_model, costs), folder)
    # TensorRT-RTX writes the outputs of INT8 convolutions as float32, which is what makes it slow.
    wide: Precision | None = "fp32" if job.target.backends[0] == "tensorrt-rtx" else None
    found = {
        name: cost.milliseconds(figures, usual) - cost.milliseconds(figures, "int8", wide)
        for name, cost in costs.items()
    }
    return found, f"estimated: roofline of {job.target.title}, int8 against {usual}"


def _profiled(
    artifact: Artifact, lowered: Artifact, job: Job, layers: Mapping[str, str], folder: Path
) -> tuple[dict[str, float], str]:
    from edgedeploy.backend import BACKENDS, BuildOptions
    from edgedeploy.bench.layers import layer_times
    from edgedeploy.guard.candidates import run_shapes
    from edgedeploy.runtime.feeds import random_feeds

    usable = [name for name in job.target.backends if not BACKENDS.get(name).why_not()]
    if not usable:
        return {}, f"not known: no runtime of {job.target.title} is installed"
    backend, shapes, times = BACKENDS.get(usable[0]), run_shapes(artifact, job), []
    for form, precision in ((lowered, "int8"), (artifact, "fp32")):
        out = folder / f"{precision}{backend.suffix}"
        built = backend.build(form, job.target, BuildOptions(opt_shapes=shapes), out)
        times.append(layer_times(built, layers, random_feeds(built, shapes), shapes))
    found = {name: times[1][name] - times[0][name] for name in times[0] if name in times[1]}
    return found, f"measured here: profiles of int8 and fp32 in {backend.name}"
