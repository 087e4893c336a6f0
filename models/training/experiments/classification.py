"""Image classification: random windows, mixed images, soft targets; norms and bits that change as it trains.

Data: train/CLASS/* with val/CLASS/* (ImageNet's own layout, Imagenette), or train.npz with test.npz (CIFAR,
see tasks/image_archive.py). A network with PRepBN loses its layer norms along the way, and a binary one its
real weights, at shares of the training that the settings say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models.layers.norm import schedule_norms
from edgedeploy.models.training.augment import color_jitter, random_area, shifted
from edgedeploy.models.training.bivit import Stage, always_binary, enter_stage, is_binary, stage_at
from edgedeploy.models.training.classification import mix, soft_cross_entropy
from edgedeploy.models.training.experiment import (
    EXPERIMENTS,
    Batch,
    Experiment,
    Objective,
    distillation_loss,
)
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
from edgedeploy.models.training.pixels import Normalize
from edgedeploy.models.training.recipe import Range, Section, Teacher
from edgedeploy.models.training.sheets import contact_sheet, fit
from edgedeploy.task import Image
from edgedeploy.tasks.classification import Classification as ClassificationTask
from edgedeploy.tasks.classification import Labeled
from edgedeploy.vision.image_archive import ImageArchive
from edgedeploy.vision.images import list_images, read_image, resize_image

SHEET = 24
CELL = 160


class ClassificationSettings(Section):
    """Attributes:
    area: share of an image that an example shows, drawn from this range; (1, 1) shows all of it.
    padding: pixels by which an example may be shifted, black moving in.
    flip: mirror every other example.
    jitter: largest relative change of brightness, contrast and saturation.
    smoothing, mixup, cutmix: of the targets, see `mix`; the alphas may be 0.
    norm_share: share of the steps after which PRepBN is batch norm alone; 0 starts with that.
    norm_warm: share of the steps before, on layer norm alone.
    stages: shares of the steps that a binary network is real, has binary attention, and is all binary.
    validation: images to measure on while training, 0 for all.
    """

    area: Range = (1.0, 1.0)
    padding: int = Field(default=0, ge=0)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, lt=1)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    norm_share: float = Field(default=0.8, ge=0, le=1)
    norm_warm: float = Field(default=0.0, ge=0, lt=1)
    stages: tuple[float, float, float] = (0.4, 0.3, 0.3)
    validation: int = Field(default=0, ge=0)


@EXPERIMENTS.register
class Classification(Experiment[ClassificationSettings]):
    """Images (N, 3, h, w) float32, normalized as the task says, and targets (N, classes); the step (N,)."""

    name = "classification"
    settings_type = ClassificationSettings
    metric = "top1"

    def prepare(self) -> None:
        self.labels, self.train = training_images(self.data)
        if self.info.task.options.get("classes") != len(self.labels):
            raise RecipeError(
                f"{self.data} has {len(self.labels)} classes", f"set options.classes={len(self.labels)}"
            )
        self.info = replace(self.info, labels=self.labels)
        self.task = cast(ClassificationTask, task_of(self.info))
        self.val = self.task.labeled(self.data)[: self.settings.validation or None]
        self._read = ImageCache(self._decode)
        self.normalize = Normalize(self.info.task.options)

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        # An image is mixed with that at the mirrored position, which another process may have.
        whole = sorted({*positions, *(self.recipe.batch - 1 - position for position in positions)})
        examples = [self.example(step, position) for position in whole]
        images = torch.from_numpy(np.stack([pixels for pixels, _ in examples]))
        labels = torch.tensor([label for _, label in examples])
        settings = self.settings
        images, targets = mix(
            images,
            labels,
            len(self.labels),
            np.random.default_rng([self.recipe.seed, step]),
            smoothing=settings.smoothing,
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
        )
        chosen = [whole.index(position) for position in positions]
        return images[chosen], targets[chosen], torch.full((len(chosen),), step)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:
        steps, settings = self.recipe.steps, self.settings
        warm = round(settings.norm_warm * steps)
        if settings.norm_share:
            schedule_norms(network, max(1, round(settings.norm_share * steps) - warm), warm)
        else:
            schedule_norms(network, 1, 0, done=True)
        real, attention, all_of_it = settings.stages
        stages = (
            Stage(real, attention=False, mlp=False),
            Stage(attention, attention=True, mlp=False),
            Stage(all_of_it, attention=True, mlp=True),
        )
        stage_at(0, steps, stages)  # raises where the shares are none
        return ClassificationLoss(network, stages, steps, teacher, self.recipe.teacher)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        with always_binary(network):
            return self.task.score(runner(network, self.info), self.val)

    def sheet(self, network: nn.Module) -> Image:
        run, pictures = runner(network, self.info), []
        with always_binary(network):
            for read, label in self.val[:: max(1, len(self.val) // SHEET)][:SHEET]:
                image = read()
                guesses = self.task.run(run, image)[:2]
                wrong = guesses[0].index != label
                picture = self.task.draw(fit(image, CELL), guesses)
                picture[-6:] = (
                    (220, 50, 47) if wrong else (60, 180, 75)
                )  # a bar that says whether it is right
                pictures.append(picture)
        return contact_sheet(pictures, 6, CELL)

    def _decode(self, index: int) -> Image:
        return self.train[index][0]()

    def example(self, step: int, position: int) -> tuple[np.ndarray, int]:
        rng, index = self.random(step, position), self.index(step, position, len(self.train))
        height, width = self.info.input_shape[2:]
        image = random_area(self._read(index), self.settings.area, rng)
        image = shifted(resize_image(image, height, width), self.settings.padding, rng)
        if self.settings.flip and rng.integers(2):
            image = image[:, ::-1]
        image = color_jitter(image, self.settings.jitter, rng)
        return self.normalize(image), self.train[index][1]


class ClassificationLoss(Objective):
    """Cross-entropy with soft targets, and the teacher's divergence; a binary network changes by the step."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        steps: int,
        teacher: nn.Module | None,
        lesson: Teacher | None,
    ) -> None:
        super().__init__(network)
        self.stages = tuple(stages) if is_binary(network) else ()
        self.steps, self.lesson = steps, lesson
        self._teacher = [teacher]  # in a list: its parameters are not this module's

    def forward(self, images: Tensor, targets: Tensor, step: Tensor) -> dict[str, Tensor]:
        if self.stages:
            enter_stage(self.network, min(int(step[0]), self.steps - 1), self.steps, self.stages)
        logits = self.network(images).float()
        result = {"main": soft_cross_entropy(logits, targets)}
        loss, teacher = result["main"], self._teacher[0]
        if teacher is not None and self.lesson is not None:
            with torch.no_grad():
                wanted = teacher(images)
            result["teacher"] = distillation_loss(logits, wanted, self.lesson.temperature)
            loss = (1 - self.lesson.share) * loss + self.lesson.share * result["teacher"]
        return {"loss": loss, **result}


def training_images(data: Path) -> tuple[tuple[str, ...], list[Labeled]]:
    """Class names and the pictures to train on, of train.npz or train/CLASS/*; raises UsageError."""
    archive = data / "train.npz"
    if archive.is_file():
        pictures = ImageArchive(archive)
        return pictures.classes, [
            (partial(pictures.read, index), int(label)) for index, label in enumerate(pictures.labels)
        ]
    root = data / "train"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(folders) < 2:
        raise UsageError(
            f"{data} has no classes to train on",
            "it needs train/CLASS/*.jpg and val/CLASS/*.jpg, or train.npz and test.npz",
        )
    return tuple(folder.name for folder in folders), [
        (partial(read_image, file), label)
        for label, folder in enumerate(folders)
        for file in list_images(folder)
    ]
