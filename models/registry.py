"""The model zoo by name: a builder function is a model, its name is the model's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import TaskSpec


@dataclass(frozen=True)
class ModelInfo:
    """What the toolkit knows of a model besides its weights.

    Attributes:
        build: makes the network; keyword arguments are the variant's own options (e.g. `augment=True`).
        input_shape: the default export shape of its one input, NCHW.
        task: what the outputs mean, and how inputs are made; travels inside every artifact.
        outputs: names of the outputs in order.
        paper: citation of the architecture.
        size_multiple: height and width must be multiples of this.
        rename: other implementations' parameter names -> ours, as (prefix, prefix) pairs.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int, int]
    task: TaskSpec
    outputs: tuple[str, ...]
    paper: str
    size_multiple: int = 1
    rename: Mapping[str, str] = field(default_factory=dict)


MODELS: Registry[ModelInfo] = Registry(
    "model",
    "edgedeploy.models",
    one_per_file=False,
    skip=frozenset({"registry", "layers", "reparam", "checkpoint"}),
)


def register_model(
    *,
    input_shape: tuple[int, int, int, int],
    task: TaskSpec,
    outputs: tuple[str, ...],
    paper: str,
    size_multiple: int = 1,
    rename: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator: enters a builder function in the zoo under its own name."""

    def enter(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        info = ModelInfo(build, input_shape, task, outputs, paper, size_multiple, rename or {})
        MODELS.register(build.__name__)(info)
        return build

    return enter


def create_model(name: str, **options: Any) -> nn.Module:
    """The network called `name`, freshly initialised; `options` go to its builder."""
    return MODELS.get(name).build(**options)
