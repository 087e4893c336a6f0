"""The model zoo: a model is a builder function, and has its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import TaskSpec


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model, without its weights.

    The fields after `build` are the arguments of the decorator `register_model`.

    Attributes:
        build: returns the network; its keyword arguments are the model's options (e.g. `augment=True`).
        input_shape: default shape of the one input at export, NCHW.
        task: preprocessing, and the meaning of the outputs; every artifact stores it.
        outputs: names of the outputs in order.
        paper: citation of the architecture.
        size_multiple: height and width must be multiples of this.
        labels: class names in index order, or empty.
        rename: prefix of parameter names in other implementations -> prefix here.
        training_only: prefixes of checkpoint keys that inference does not need.
        default_weights: bundled weights that come first, and that fit every option of the builder; or empty.
        fixed_size: whether the network takes `input_shape` alone. The builder's option `image_size` (side of
            a square), if it has one, builds the network for another size.
        training_options: options of the builder that training alone needs, such as an auxiliary head.
        idle: last parts of the names of parameters that published checkpoints hold and no output needs.
        heads: prefixes of the parameters that a trunk of another network lacks, see `load_trunk`; empty where
            the family has no such network.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, int, int, int]
    task: TaskSpec
    outputs: tuple[str, ...]
    paper: str
    size_multiple: int = 1
    labels: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    training_only: tuple[str, ...] = ()
    default_weights: str = ""
    fixed_size: bool = False
    training_options: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the builder, which users type."""
        return self.build.__name__

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise UsageError for an option that the builder lacks."""
        known = list(signature(self.build).parameters)
        strange = [name for name in options if name not in known]
        if strange:
            hint = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"{self.name} has no option {', '.join(strange)}", hint)

    def variant(self, **options: Any) -> ModelInfo:
        """The description of a network built with `options`.

        Another number of classes drops the labels, another image size changes the input shape.
        """
        described = self
        size, classes = options.get("image_size"), options.get("classes")
        if size is not None and (*self.input_shape[:2], size, size) != self.input_shape:
            described = replace(described, input_shape=(*self.input_shape[:2], size, size))
        if classes is not None and classes != self.task.options.get("classes"):
            described = replace(described._with(classes=classes), labels=())
        return described

    def for_task(self, options: Mapping[str, Any]) -> ModelInfo:
        """The description with other options of the task, e.g. the size that weights were trained for.

        Raises UsageError for an option that the task lacks.
        """
        strange = [name for name in options if name not in self.task.options]
        if strange:
            known = ", ".join(self.task.options)
            raise UsageError(f"the task of {self.name} has no option {', '.join(strange)}", f"it has {known}")
        return self._with(**options)

    def _with(self, **options: Any) -> ModelInfo:
        task = self.task.model_copy(update={"options": {**self.task.options, **options}})
        return replace(self, task=task)


MODELS: Registry[ModelInfo] = Registry("model", "edgedeploy.models.zoo", families=True)
register_model = MODELS.decorator(ModelInfo)


def create_model(name: str, **options: Any) -> nn.Module:
    """The network `name` with initial weights, built with `options`; raises UnknownNameError."""
    return MODELS.get(name).build(**options)
