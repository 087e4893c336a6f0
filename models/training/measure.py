"""Measure a PyTorch network by its task's own metric, before anything is exported: what model cards quote.

Run as `python -m edgedeploy.models.training.measure espcn_x3 --data DIR [--weights FILE]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.models.checkpoint import load_weights
from edgedeploy.models.registry import MODELS, ModelInfo
from edgedeploy.tasks.base import Run, Task, task_for


def measure(model: nn.Module, info: ModelInfo, data: Path) -> dict[str, float]:
    """Metrics of `model` over a data folder, e.g. {"psnr_y": ..., "psnr_y_bicubic": ..., "images": 5}.

    Raises UsageError where the folder does not hold what the task's metric needs.
    """
    return task_of(info).evaluate(runner(model, info), data)


def task_of(info: ModelInfo) -> Task:
    """The task of a network that was not exported."""
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
    """The network as tasks call it: feeds -> outputs in numpy; outputs of training are left out."""
    model.eval()

    def run(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = model(torch.from_numpy(feeds["input"]))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.numpy() for name, value in zip(info.outputs, outputs, strict=False)}

    return run


def main() -> None:
    """Command line of `measure`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS.names())
    parser.add_argument("--data", type=Path, required=True, help="e.g. a folder with HR/ and LRx3/")
    parser.add_argument("--weights", help="file, or name of bundled weights; default: the bundled ones")
    arguments = parser.parse_args()
    model = load_weights(arguments.model, arguments.weights)
    for name, value in measure(model, MODELS.get(arguments.model), arguments.data).items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
