"""Evaluate a PyTorch network by its task's metric before export: `edgedeploy eval MODEL`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.registry import ModelInfo
from edgedeploy.models.training.threads import use_threads
from edgedeploy.task import Progress, Run, Task, task_for


def measure(
    model: nn.Module, info: ModelInfo, data: Path, limit: int | None = None, progress: Progress | None = None
) -> dict[str, float]:
    """Metrics of `model` over a data folder, e.g. {"psnr_y": ..., "psnr_y_bicubic": ..., "images": 5}.

    `limit` and `progress` as of `Task.evaluate`. Raises UsageError for a folder that lacks the metric's data.
    """
    return task_of(info).evaluate(runner(model, info), data, limit, progress)


def measure_weights(
    model: str,
    weights: str | None,
    data: Path,
    limit: int | None = None,
    progress: Progress | None = None,
    *,
    threads: int = 0,
) -> dict[str, float]:
    """`measure` for a zoo model with bundled weights, by name, or a file's; None for its default weights."""
    use_threads(threads)
    loaded = load_checkpoint(model, weights)
    return measure(loaded.model, loaded.info, data, limit, progress)


def task_of(info: ModelInfo) -> Task:
    """The task of a network without an exported artifact."""
    size = info.input_shape[2:] if info.fixed_size else ("height", "width")
    entry = TensorSpec(name="input", dtype="float32", shape=(1, info.input_shape[1], *size), layout="NCHW")
    exits = tuple(TensorSpec(name=name, dtype="float32", shape=("?",) * 4) for name in info.outputs)
    artifact = Artifact(
        path=Path(info.name),
        kind="onnx",
        model=info.name,
        inputs=(entry,),
        outputs=exits,
        task=info.task,
        labels=info.labels,
    )
    return task_for(artifact)


def runner(model: nn.Module, info: ModelInfo) -> Run:
    """The network as tasks call it: feeds -> outputs in numpy, without outputs of training."""
    model.eval()
    device = next((value.device for value in model.parameters()), torch.device("cpu"))

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = model(torch.from_numpy(feeds["input"]).to(device))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.cpu().numpy() for name, value in zip(info.outputs, outputs, strict=False)}

    return run
