"""The optimize step on an artifact: simplifier, graph passes, and passes that change inputs or outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedeploy.core.details import Details, OptimizeDetails
from edgedeploy.core.errors import UsageError
from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.capture.adopt import precision_of
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.passes.embed_preprocess import PreprocessOptions
from edgedeploy.export.passes.pad_channels import PadOptions
from edgedeploy.export.report import save_report
from edgedeploy.export.rewrite import Policy, run_passes, write
from edgedeploy.export.runner import OptimizeResult
from edgedeploy.export.simplify import simplified
from edgedeploy.graphs.metadata import tensor_specs
from edgedeploy.graphs.read import read_model
from edgedeploy.graphs.run import Feeds


def optimize_artifact(
    artifact: Artifact, options: OptimizeOptions, out: Path, feeds: Sequence[Feeds] = ()
) -> Artifact:
    """Run what `options` ask for on an ONNX artifact; write the model and its pass report to `out`'s folder.

    `feeds` are real inputs on which passes are proved besides random ones. Every accepted pass becomes an
    entry of the history; `details.surgery` has the node counts and, in `problems`, the reasons of reverted
    rewrites. A pass that changes inputs or outputs also changes the artifact: its task then feeds pixels, and
    reads class maps or pixels.

    Raises UnknownNameError for an unknown pass or simplifier, UsageError for an option that does not fit the
    model, ParityError where a pass that was asked for by an option does not keep the results.
    """
    for name in options.skip:
        PASSES.get(name)
    before, notes = read_model(artifact.path), []
    model = before
    if options.simplify is not None:
        model, note = simplified(
            model, options.simplify, verify=options.verify, seeds=options.seeds, feeds=feeds
        )
        notes.append(note)
    names = DEFAULT_PASSES if options.passes is None else options.passes
    extra = _extra_passes(artifact, options)
    stages = [[name for name in names if name not in options.skip], *([name] for name in extra)]
    result = run_passes(artifact, stages, Policy.of(options, feeds), options=extra, model=model)
    surgery = OptimizeDetails(
        nodes_before=len(before.graph.node),
        nodes_after=len(result.model.graph.node),
        verified=result.verified,
        problems=tuple(result.problems()),
    )
    changes: dict[str, Any] = {"details": artifact.details | Details(surgery=surgery)}
    if "embed-preprocess" in extra:
        changes |= _takes_pixels(artifact, result)
    if not artifact.history and artifact.precision == "fp32":  # a file made elsewhere, not adopted
        changes["precision"] = precision_of(result.model)
    made = write(artifact, result, out, **changes)
    save_report(out, before, result, notes, artifact.path)
    return made


def _extra_passes(artifact: Artifact, options: OptimizeOptions) -> dict[str, Any]:
    """The passes that switches of the recipe add, in order, with their options; raises UsageError."""
    extra: dict[str, Any] = {}
    if options.pad_channels is not None:
        extra["pad-channels"] = PadOptions(options.pad_channels)
    if options.preprocess or options.uint8_input:
        mean, std = (artifact.task.options.get(name) for name in ("mean", "std"))
        if mean is None or std is None:
            raise UsageError(
                f"{artifact.model} does not say how pixels become its input (task options mean and std)",
                "leave optimize.preprocess out, or export the model from the zoo",
            )
        if artifact.inputs[0].dtype != "uint8":  # else an earlier run embedded it
            mean, std = tuple(map(float, mean)), tuple(map(float, std))
            extra["embed-preprocess"] = PreprocessOptions(mean, std, options.uint8_input)
    if options.argmax:
        extra["argmax-head"] = None
    if options.uint8_output:
        extra["uint8-output"] = None
    return extra


def _takes_pixels(artifact: Artifact, result: OptimizeResult) -> dict[str, Any]:
    """Fields of an artifact whose graph normalizes: its task feeds pixels 0..255."""
    channels = len(artifact.task.options["mean"])
    pixels = {"mean": [0.0] * channels, "std": [1.0] * channels}
    inputs, outputs = tensor_specs(result.model, artifact)
    if inputs[0].dtype == "uint8" and len(inputs[0].shape) == 4:
        inputs = (inputs[0].model_copy(update={"layout": "NHWC"}), *inputs[1:])
    task = artifact.task.model_copy(update={"options": {**artifact.task.options, **pixels}})
    return {"inputs": inputs, "outputs": outputs, "task": task}
