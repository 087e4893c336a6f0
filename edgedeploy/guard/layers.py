"""What each layer costs and saves in INT8, and which layers to keep in float for a budget.

Noise is measured on emulated INT8. Time is the difference of two profiles where the runtime runs here, else a
roofline of the target's figures. A proposal is no proof: `build --precision auto` builds and scores it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.backend import BACKENDS, BuildOptions, Feeds
from edgedeploy.bench.layers import layer_times
from edgedeploy.calibration.mix.costs import layer_costs, layer_names
from edgedeploy.calibration.mix.emulate import Emulator
from edgedeploy.calibration.mix.float_order import float_order, least_prefix, reason
from edgedeploy.calibration.mix.sensitivity import Sensitivity, measure
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.core.target import Target
from edgedeploy.guard.candidates import run_shapes
from edgedeploy.guard.score import Scorer, agreement_scores, misses
from edgedeploy.lowering import lower
from edgedeploy.runtime.feeds import random_feeds
from edgedeploy.task import Task, task_for

if TYPE_CHECKING:
    import onnx

    from edgedeploy.calibration import QuantizeResult

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerStudy:
    """What is known of the layers of an INT8 model.

    Attributes:
        sensitivity: noise, agreement and, with labels, the metric of each layer alone in INT8.
        savings: milliseconds that each layer saves in INT8; empty where nothing is known of the target.
        savings_source: how they were measured or estimated.
        kept: for a budget, layers to keep in float -> why; None where none was given.
        excluded: nodes that are in float anyway -> why.
    """

    sensitivity: Sensitivity
    savings: dict[str, float]
    savings_source: str
    kept: dict[str, str] | None
    excluded: dict[str, str]


@dataclass(frozen=True)
class EmulatedMixes:
    """Measures layers alone, and scores mixes of INT8 and float layers, without building them.

    Attributes:
        sensitivity: noise and agreement of each layer alone in INT8, on `inputs`.
        task, emulator: what outputs mean, and what runs a mix.
        inputs: feeds to score on.
        labeled, limit: images with labels for the task's metric, and how many at most.
    """

    sensitivity: Sensitivity
    task: Task
    emulator: Emulator
    inputs: Sequence[Feeds]
    labeled: Path | None = None
    limit: int = 0

    @staticmethod
    def of(
        quantized: QuantizeResult,
        artifact: Artifact,
        inputs: Sequence[Feeds],
        progress: Progress,
        memory_mb: int,
    ) -> EmulatedMixes:
        """Measure the layers of an INT8 model on some inputs; `memory_mb` bounds the activations kept."""
        task, layers = task_for(artifact), quantized.report.placement.quantized
        found, emulator = measure(
            quantized.float_model,
            quantized.model,
            layers,
            inputs,
            agreement=task.agreement,
            memory_mb=memory_mb,
            progress=progress,
        )
        return EmulatedMixes(found, task, emulator, inputs)

    @cached_property
    def exact(self) -> list[Mapping[str, Any]]:
        """Outputs of the float model."""
        return [self.emulator.run(feed, ()) for feed in self.inputs]

    @cached_property
    def exact_metrics(self) -> dict[str, float]:
        """The task's metrics of the float model; empty without labels."""
        return self.metrics(())

    def keeps(self, kept: Sequence[str], budgets: tuple[AccuracyBudget, ...]) -> bool:
        """Whether INT8 with the layers `kept` in float keeps the budgets."""
        active = set(self.emulator.layers) - set(kept)
        outputs = (self.emulator.run(feed, active) for feed in self.inputs)
        pairs = zip(self.exact, outputs, strict=True)
        scores = {**agreement_scores(self.task, pairs), **self.metrics(active)}
        return not misses(budgets, scores, self.exact_metrics)

    def metrics(self, active: Iterable[str]) -> dict[str, float]:
        """The task's metrics with the layers `active` in INT8; empty without labels."""
        if self.labeled is None:
            return {}
        layers = set(active)
        return self.task.evaluate(lambda feeds: self.emulator.run(feeds, layers), self.labeled, self.limit)

    def with_metric(self, labeled: Path, limit: int) -> EmulatedMixes:
        """The same with the task's metric of every layer alone in INT8, on labeled images."""
        mixes = dataclasses.replace(self, labeled=labeled, limit=limit)

        def metric(active: Iterable[str]) -> float | None:
            return mixes.metrics(active).get(self.task.metric_name)

        found = dataclasses.replace(
            self.sensitivity,
            layers=tuple(
                dataclasses.replace(layer, metric=metric((layer.name,))) for layer in self.sensitivity.layers
            ),
            metric=metric(self.emulator.layers),
            metric_float=metric(()),
        )
        return dataclasses.replace(mixes, sensitivity=found)


def study_layers(
    artifact: Artifact,
    job: Job,
    folder: Path,
    statistics: Path,
    *,
    images: int,
    budgets: tuple[AccuracyBudget, ...] = (),
    progress: Progress,
) -> LayerStudy:
    """Quantize a float artifact in `folder`, and measure its layers on `images` of the calibration inputs.

    With `job.labeled` the task's metric is measured too, on as many labeled images. Raises UsageError for a
    budget that needs labels where there are none.
    """
    if any(budget.needs_labels for budget in budgets) and job.labeled is None:
        raise UsageError(
            "such a budget needs labels", "name labeled images with --labels, or use agreement>=0.98"
        )
    assert job.data is not None  # noqa: S101  the command asks for it
    lowered = lower(artifact, "int8", job, folder / artifact.path.name, progress, statistics)
    quantized = lowered.quantized
    assert quantized is not None  # noqa: S101  never None of int8
    inputs = list(Scorer(artifact, job.data, images, job.size).feeds())
    memory_mb = job.recipe.calibration.memory_mb
    mixes = EmulatedMixes.of(quantized, artifact, inputs, progress, memory_mb)
    if job.labeled is not None:
        mixes = mixes.with_metric(job.labeled, images)
    savings, source = _savings(artifact, lowered.artifact, quantized.float_model, job, folder)
    kept = None
    if budgets:
        order, _ = float_order(mixes.sensitivity, savings)
        count = least_prefix([layer.name for layer in order], lambda kept: mixes.keeps(kept, budgets))
        kept = {layer.name: reason(layer, savings.get(layer.name)) for layer in order[:count]}
    excluded = {note.node: note.reason for note in quantized.report.placement.excluded}
    return LayerStudy(mixes.sensitivity, savings, source, kept, excluded)


def profiled_savings(
    int8: Artifact, other: Artifact, model: onnx.ModelProto, shapes: Shapes
) -> dict[str, float]:
    """Milliseconds that each layer saves in INT8 over another build, both profiled here.

    The builds may be of two runtimes: layers have the names of `model`, the float model.
    """
    names = layer_names(model, layer_costs(model, shapes))
    feeds = random_feeds(int8, shapes)
    ours, theirs = (layer_times(built, names, feeds, shapes) for built in (int8, other))
    return {name: theirs[name] - ours[name] for name in ours if name in theirs}


def estimated_savings(
    model: onnx.ModelProto, shapes: Shapes, target: Target, backend: str, other: Precision
) -> dict[str, float]:
    """Milliseconds that each layer saves in INT8 over another precision, by the target's roofline."""
    # TensorRT-RTX writes the outputs of INT8 convolutions as float32, which makes them slow.
    written: Precision | None = "fp32" if backend == "tensorrt-rtx" else None
    figures = target.figures
    saved = {
        name: cost.milliseconds(figures, other) - cost.milliseconds(figures, "int8", written)
        for name, cost in layer_costs(model, shapes).items()
    }
    return {name: value for name, value in saved.items() if value == value}  # NaN where a figure is absent


def _savings(
    artifact: Artifact, int8: Artifact, model: onnx.ModelProto, job: Job, folder: Path
) -> tuple[dict[str, float], str]:
    """What each layer saves over what the target would take else, and how that is known."""
    target, shapes = job.target, run_shapes(artifact, job)
    if target.figures.memory_gb_per_s is not None:
        usual = target.default_precision
        saved = estimated_savings(model, shapes, target, target.backends[0], usual)
        return saved, f"estimated: roofline of {target.title}, int8 against {usual}"
    usable = [name for name in target.backends if not BACKENDS.get(name).why_not()]
    if not usable:
        return {}, f"not known: no runtime of {target.title} is installed"
    backend, options = BACKENDS.get(usable[0]), BuildOptions(opt_shapes=shapes)
    built = [
        backend.build(form, target, options, folder / f"{form.precision}{backend.suffix}")
        for form in (int8, artifact)
    ]
    saved = profiled_savings(built[0], built[1], model, shapes)
    return saved, f"measured here: profiles of int8 and fp32 in {backend.name}"
