"""Passes that change what a model takes or gives, together with the artifact that says so.

A graph pass knows the graph alone; these wrappers also rewrite the task's options, so that the tasks feed
pixels where the graph now normalizes by itself, and read the class map or the pixels that it now gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.errors import ParityError, UsageError
from edgedeploy.core.spec import Artifact
from edgedeploy.export.passes.embed_preprocess import PreprocessOptions
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.graphs.evaluate import Feeds
from edgedeploy.graphs.metadata import save_model, tensor_specs


def embed_preprocess(
    artifact: Artifact,
    out: Path,
    *,
    uint8_input: bool = False,
    verify: bool = True,
    seeds: int = 2,
    feeds: Sequence[Feeds] = (),
) -> Artifact:
    """Move the task's mean and std into the graph and write it to `out`; its input then takes pixels 0..255.

    With `uint8_input` the input is uint8 in NHWC layout, else float32 in NCHW. `feeds` are real inputs of the
    model as it is. An artifact that takes such pixels already is only copied. Raises UsageError if the task
    has no mean and std, or the graph's input is no image, and ParityError if the result is not the same.
    """
    task = artifact.task
    mean, std = task.options.get("mean"), task.options.get("std")
    if mean is None or std is None:
        raise UsageError(
            f"{artifact.model} does not say how pixels become its input (task options mean and std)",
            "leave surgery.preprocess out, or export the model from the zoo",
        )
    if artifact.inputs[0].dtype == "uint8":  # it was done before
        return save_model(onnx.load(artifact.path), artifact, out)
    options = PreprocessOptions(tuple(map(float, mean)), tuple(map(float, std)), uint8_input)
    changes: dict[str, Any] = {"mean": [0.0] * len(mean), "std": [1.0] * len(std)}
    return _run(artifact, out, "embed-preprocess", options, changes, verify=verify, seeds=seeds, feeds=feeds)


def embed_argmax(artifact: Artifact, out: Path, *, verify: bool = True, seeds: int = 2) -> Artifact:
    """Let a segmentation model give uint8 class numbers (N, H, W) at the resolution of its logits."""
    return _run(artifact, out, "argmax-head", None, {}, verify=verify, seeds=seeds)


def embed_uint8_output(artifact: Artifact, out: Path, *, verify: bool = True, seeds: int = 2) -> Artifact:
    """Let a model whose output is an image in [0, 1] give uint8 pixels."""
    return _run(artifact, out, "uint8-output", None, {}, verify=verify, seeds=seeds)


def _run(
    artifact: Artifact,
    out: Path,
    name: str,
    options: Any,
    changes: Mapping[str, Any],
    *,
    verify: bool,
    seeds: int,
    feeds: Sequence[Feeds] = (),
) -> Artifact:
    model = onnx.load(artifact.path)
    result = optimize(
        model,
        [name],
        verify=verify,
        seeds=seeds,
        feeds=feeds,
        options={name: options} if options is not None else None,
    )
    _require(result, artifact, name)
    task = artifact.task.model_copy(update={"options": {**artifact.task.options, **changes}})
    inputs, outputs = tensor_specs(result.model, artifact)
    if inputs[0].dtype == "uint8" and len(inputs[0].shape) == 4:
        inputs = (inputs[0].model_copy(update={"layout": "NHWC"}), *inputs[1:])
    changed = artifact.model_copy(
        update={
            "inputs": inputs,
            "outputs": outputs,
            "task": task,
            "history": (*artifact.history, *result.history()),
        }
    )
    return save_model(result.model, changed, out)


def _require(result: OptimizeResult, artifact: Artifact, name: str) -> None:
    """Raise unless the pass was applied: unlike a fold, a changed contract cannot be left out silently."""
    if result.left_alone:
        raise UsageError(
            f"{artifact.path}: {result.left_alone}", "set surgery.verify=false to go without proof"
        )
    for step in result.reverted:
        raise ParityError(
            f"{name} was taken back: {step.reason}", "report this model, and go on without the pass"
        )
    for _, skipped in result.skipped:
        raise UsageError(f"{name} does not fit {artifact.model}: {skipped.reason}", "leave the option out")
