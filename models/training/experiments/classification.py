"""Image classification: random crops, mixed images, soft targets; schedules of norms and of binarization.

Data: train/CLASS/* with val/CLASS/* (layout of ImageNet and Imagenette), or train.npz with test.npz (CIFAR,
see vision/image_archive.py). The settings schedule the change from layer norm to PRepBN and the binarization
of a binary network as shares of the steps.
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
from edgedeploy.models.training.experiment import EXPERIMENTS, Batch, Experiment, Objective
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
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
    area: range of the share of the image's area in an example; (1, 1) is the whole image.
    padding: largest shift of an example in pixels, filled with black.
    flip: mirror half of the examples.
    jitter: largest relative change of brightness, contrast and saturation.
    smoothing, mixup, cutmix: label smoothing and the alphas of `mix`; an alpha may be 0.
    norm_share: share of the steps after which PRepBN is RepBN alone; 0 for RepBN from the first step.
    norm_warm: share of the steps on layer norm alone, at the start.
    stages: shares of the steps in which a binary network is real, has binary attention, is all binary.
    validation: images to evaluate on during training, 0 for all.
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
    distills = True

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

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        # An image is mixed with the one at the mirrored position, which may belong to another process.
        mirrored = sorted({*positions, *(self.recipe.batch - 1 - position for position in positions)})
        examples = [self.example(step, position) for position in mirrored]
        images = torch.from_numpy(np.stack([pixels for pixels, _ in examples]))
        labels = torch.tensor([label for _, label in examples])
        images, targets = mix(
            images, labels, len(self.labels), np.random.default_rng([self.recipe.seed, step]),
            smoothing=self.settings.smoothing,
            mixup_alpha=self.settings.mixup,
            cutmix_alpha=self.settings.cutmix,
        )  # fmt: skip
        chosen = [mirrored.index(position) for position in positions]
        return images[chosen], targets[chosen], torch.full((len(chosen),), step)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:
        steps, settings = self.recipe.steps, self.settings
        warm = round(settings.norm_warm * steps)
        if settings.norm_share:
            schedule_norms(network, max(1, round(settings.norm_share * steps) - warm), warm)
        else:
            schedule_norms(network, 1, 0, done=True)
        real, attention, binary = settings.stages
        stages = (
            Stage(real, attention=False, mlp=False),
            Stage(attention, attention=True, mlp=False),
            Stage(binary, attention=True, mlp=True),
        )
        stage_at(0, steps, stages)  # raises where the shares do not add up to 1
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
                picture[-6:] = (220, 50, 47) if wrong else (60, 180, 75)  # a red or a green bar
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
    """Cross-entropy with soft targets, and the teacher's divergence; sets the stage of a binary network."""

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[Stage],
        steps: int,
        teacher: nn.Module | None,
        lesson: Teacher | None,
    ) -> None:
        super().__init__(network, teacher, lesson)
        self.steps, self.stages = steps, tuple(stages) if is_binary(network) else ()

    def forward(self, images: Tensor, targets: Tensor, step: Tensor) -> dict[str, Tensor]:
        if self.stages:
            enter_stage(self.network, min(int(step[0]), self.steps - 1), self.steps, self.stages)
        logits = self.network(images).float()
        loss = soft_cross_entropy(logits, targets)
        return self.distill(loss, {"main": loss}, images, logits)


def training_images(data: Path) -> tuple[tuple[str, ...], list[Labeled]]:
    """Class names and the training images of train.npz or train/CLASS/*; raises UsageError."""
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
