"""The contract of an experiment: examples, loss, metric and pictures of one task.

The random numbers of an example depend on (seed, step, position in the batch) alone. So a resumed training,
also one with another number of processes, sees the same examples as an uninterrupted one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.errors import RecipeError
from edgedeploy.core.registry import Registry
from edgedeploy.models.registry import MODELS, ModelInfo
from edgedeploy.models.training.pixels import Normalize
from edgedeploy.models.training.recipe import Section, Teacher, TrainingRecipe, validated
from edgedeploy.task import Image

S = TypeVar("S", bound=Section)
Batch = tuple[Tensor, ...]


class Experiment(ABC, Generic[S]):
    """A task with a recipe and a data folder.

    Attributes:
        name: name of the file and of the task.
        settings_type: type of the recipe's `settings`.
        metric: name of the metric of `evaluate` that chooses the best weights; larger is better.
        distills: whether a recipe may name a teacher.
        labels: class names of the data, stored in the weights file.
        normalize: RGB image (H, W, 3) -> network input (3, H, W) float32.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Section]]
    metric: ClassVar[str]
    distills: ClassVar[bool] = False

    def __init__(self, recipe: TrainingRecipe, data: Path) -> None:
        self.recipe, self.data = recipe, data
        if recipe.teacher is not None and not self.distills:
            raise RecipeError(f"{recipe.experiment} has no teacher", "leave `teacher` out")
        self.settings = cast(S, validated(self.settings_type, recipe.settings, "settings"))
        model = MODELS.get(recipe.model)
        if model.task.name != recipe.experiment:
            raise RecipeError(
                f"{recipe.model} is no network for {recipe.experiment}", f"it is for {model.task.name}"
            )
        model.check_options(recipe.options)
        self.info: ModelInfo = model.variant(**recipe.options).for_task(recipe.task)
        self.labels: tuple[str, ...] = self.info.labels
        self.normalize = Normalize(self.info.task.options)
        self._order: tuple[tuple[int, int], NDArray[np.intp]] | None = None
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Find the data; raises UsageError with the expected layout of folders."""

    def example(self, step: int, position: int) -> tuple[Any, ...]:
        """The arrays and numbers of one example; not needed where `batch` is overridden."""
        raise NotImplementedError

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The examples at these positions of this step's batch, as tensors with the examples on axis 0."""
        examples = [self.example(step, position) for position in positions]
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*examples, strict=True))

    @abstractmethod
    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:
        """The module whose forward pass over a batch returns the losses."""

    @abstractmethod
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Metrics on held-out data; empty without any."""

    def sheet(self, network: nn.Module) -> Image | None:  # noqa: ARG002
        """A contact sheet of inputs, predictions and truth."""
        return None

    def random(self, step: int, position: int) -> np.random.Generator:
        """The random generator of one example."""
        return np.random.default_rng([self.recipe.seed, step, position])

    def index(self, step: int, position: int, count: int) -> int:
        """Sample of an example: an epoch has each of the `count` samples once, in random order."""
        epoch, place = divmod(step * self.recipe.batch + position, count)
        if self._order is None or self._order[0] != (epoch, count):
            order = np.random.default_rng([self.recipe.seed, epoch]).permutation(count)
            self._order = (epoch, count), order
        return int(self._order[1][place])


class Objective(nn.Module):
    """A network with its loss: `forward` takes a batch and returns {"loss": ..., and parts for the log}.

    Training also updates parameters of the objective itself (class centers of a metric loss), and checkpoints
    hold them.

    Args:
        network: the network to train.
        teacher: frozen network to distill, with its section of the recipe, `lesson`.
    """

    def __init__(
        self, network: nn.Module, teacher: nn.Module | None = None, lesson: Teacher | None = None
    ) -> None:
        super().__init__()
        self.network, self.lesson = network, lesson
        self._teacher = [teacher]  # in a list: its parameters are not this module's

    def distill(
        self, loss: Tensor, parts: dict[str, Tensor], images: Tensor, logits: Tensor
    ) -> dict[str, Tensor]:
        """{"loss": `loss`, **`parts`}; with a teacher, its divergence from `logits` is part of both."""
        teacher = self._teacher[0]
        if teacher is not None and self.lesson is not None:
            with torch.no_grad():
                outputs = teacher(images)
            wanted = outputs[0] if isinstance(outputs, tuple) else outputs
            parts = {**parts, "teacher": distillation_loss(logits, wanted, self.lesson.temperature)}
            loss = (1 - self.lesson.share) * loss + self.lesson.share * parts["teacher"]
        return {"loss": loss, **parts}


EXPERIMENTS: Registry[type[Experiment[Any]]] = Registry(
    "experiment", "edgedeploy.models.training.experiments"
)


def make_experiment(recipe: TrainingRecipe, data: Path) -> Experiment[Any]:
    """The experiment of a recipe; raises UnknownNameError, RecipeError or UsageError."""
    return EXPERIMENTS.get(recipe.experiment)(recipe, data)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) over axis 1, both logits divided by T. Hinton et al., 2015."""
    if student.shape != teacher.shape:
        raise RecipeError(
            f"the teacher's output is {list(teacher.shape)}, the student's {list(student.shape)}",
            "choose a teacher of the same classes and output size",
        )
    log_p = F.log_softmax(student.float() / temperature, 1)
    log_q = F.log_softmax(teacher.float() / temperature, 1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    return divergence * temperature**2
