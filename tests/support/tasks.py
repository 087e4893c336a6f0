"""A task without a model: an artifact that only describes inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.task import task_for

Size = tuple[int | str, int | str]


def task_on_images(
    name: str,
    outputs: Mapping[str, tuple[int | str, ...]],
    size: Size = ("h", "w"),
    labels: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """The task called `name` on an input `image`, float32 (1, 3, *size), and float32 outputs."""
    artifact = Artifact(
        path=Path("x.onnx"),
        kind="onnx",
        model="m",
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, 3, *size), layout="NCHW"),),
        outputs=tuple(
            TensorSpec(name=output, dtype="float32", shape=shape) for output, shape in outputs.items()
        ),
        task=TaskSpec(name=name, options=options),
        labels=labels,
    )
    return task_for(artifact)
