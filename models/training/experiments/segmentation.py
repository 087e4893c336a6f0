"""Semantic segmentation: cross-entropy over hard pixels, an auxiliary head, crops of every scale.

Data: a folder laid out as CamVid or Cityscapes, see vision/segmentation_data.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.models.training.augment import color_jitter, random_window
from edgedeploy.models.training.experiment import EXPERIMENTS, Experiment, Objective
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
from edgedeploy.models.training.recipe import Range, Section, Teacher
from edgedeploy.models.training.sheets import contact_sheet
from edgedeploy.task import Image
from edgedeploy.tasks.segmentation import Segmentation as SegmentationTask
from edgedeploy.tasks.segmentation import read_sample
from edgedeploy.vision.images import read_image
from edgedeploy.vision.segmentation_data import find_samples, layout_of

SHEET_ROWS = 6


class SegmentationSettings(Section):
    """Attributes:
    layout: camvid or cityscapes: folders of images and class maps, and the label to ignore.
    crop: height and width of an example, pixels.
    scale: range of the factor by which images are resized first, uniform.
    jitter: largest relative change of brightness, contrast and saturation.
    ohem_threshold, ohem_share: a pixel counts if its true class has a probability below the threshold; at
        least this share of the labeled pixels counts.
    auxiliary: weight of the second head's loss.
    balance: "median" weights classes by median frequency over the training set, at most 10.
    stride: the loss reads one label in `stride` along each axis. Logits are 8 times smaller than labels: 2
        loses little, and on a CPU the loss at full size takes a third of a step.
    """

    layout: Literal["camvid", "cityscapes"]
    crop: tuple[int, int]
    scale: Range = (0.5, 2.0)
    jitter: float = Field(default=0.0, ge=0, lt=1)
    ohem_threshold: float = Field(default=0.9, gt=0, le=1)
    ohem_share: float = Field(default=0.25, gt=0, le=1)
    auxiliary: float = Field(default=0.4, ge=0)
    balance: Literal["none", "median"] = "none"
    stride: int = Field(default=1, ge=1, le=8)


@EXPERIMENTS.register
class Segmentation(Experiment[SegmentationSettings]):
    """Crops (N, 3, h, w) float32, normalized as the task says, and class maps (N, h, w) int64."""

    name = "segmentation"
    settings_type = SegmentationSettings
    metric = "miou"
    distills = True

    def prepare(self) -> None:
        self.layout = layout_of(self.settings.layout)
        if self.recipe.options.get("classes", 19) != self.layout.classes:
            raise RecipeError(
                f"{self.settings.layout} has {self.layout.classes} classes",
                f"set options.classes={self.layout.classes}",
            )
        self.labels = self.layout.labels
        self.train = find_samples(self.data, self.layout, "train")
        self.val = find_samples(self.data, self.layout, "val")
        self.task = cast(SegmentationTask, task_of(self.info))
        self._read = ImageCache(self._decode)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:
        weights = None
        if self.settings.balance == "median":
            maps = (self.layout.read(sample.truth) for sample in self.train)
            weights = median_frequency(maps, self.layout.classes)
        lesson = self.recipe.teacher
        return SegmentationLoss(network, self.settings, self.layout.ignore, weights, teacher, lesson)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        run = runner(network, self.info)
        scores = self.task.score(run, self.val, self.layout.read, self.layout.ignore)
        return {name: scores[name] for name in ("miou", "pixel_accuracy")}

    def sheet(self, network: nn.Module) -> Image:
        """Image, prediction, truth."""
        run, pictures = runner(network, self.info), []
        for index in evenly_spaced(len(self.val), SHEET_ROWS):
            image, truth = read_sample(self.val[index], self.layout.read)
            known = np.where(truth == self.layout.ignore, 0, truth)
            pictures += [image, self.task.draw(image, self.task.run(run, image))]
            pictures.append(self.task.draw(image, known))
        return contact_sheet(pictures, 3, 480)

    def example(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self.random(step, position)
        image, truth = self._read(self.index(step, position, len(self.train)))
        image, truth = random_window(
            image,
            truth,
            self.settings.crop,
            self.settings.scale,
            rng,
            fill=self.normalize.mean.astype(np.uint8),
            ignore=self.layout.ignore,
        )
        image = color_jitter(image, self.settings.jitter, rng)
        return self.normalize(image), truth.astype(np.int64)

    def _decode(self, index: int) -> tuple[Image, Image]:
        sample = self.train[index]
        image, truth = read_image(sample.image), self.layout.read(sample.truth)
        if truth.shape != image.shape[:2]:
            raise UsageError(f"{sample.image} and its class map differ in size", "resize one to the other")
        return image, truth


class SegmentationLoss(Objective):
    """OHEM cross-entropy of the main head, plus the auxiliary head's, plus the teacher's divergence.

    Logits at 1/8 are upsampled to the size of the labels. Shrivastava et al., Training Region-based Object
    Detectors with Online Hard Example Mining, 2016.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: SegmentationSettings,
        ignore: int,
        weights: Tensor | None = None,
        teacher: nn.Module | None = None,
        lesson: Teacher | None = None,
    ) -> None:
        super().__init__(network, teacher, lesson)
        self.settings, self.ignore = settings, ignore
        self.weights: Tensor | None
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs, step = self.network(images), self.settings.stride
        labels = labels[:, step // 2 :: step, step // 2 :: step]
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        loss, *others = (self._hard(head, labels) for head in heads)
        parts = {"main": loss}
        for extra in others:
            parts["auxiliary"] = extra
            loss = loss + self.settings.auxiliary * extra
        return self.distill(loss, parts, images, heads[0])

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        enlarged = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
        return hard_cross_entropy(
            enlarged,
            labels,
            ignore=self.ignore,
            threshold=self.settings.ohem_threshold,
            share=self.settings.ohem_share,
            weights=self.weights,
        )


def hard_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int,
    threshold: float,
    share: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of pixels whose true class has p < threshold, at least of the hardest `share`.

    Args:
        logits: (N, C, H, W) float32.
        labels: (N, H, W) int64.
        ignore: label of pixels that do not count.
        weights: class weights (C,) of the pixel losses.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=ignore, reduction="none").flatten()
    flat = labels.flatten()
    known = (flat != ignore).nonzero().squeeze(1)
    if not len(known):
        return losses.sum() * 0
    losses = losses[known]
    with torch.no_grad():  # p of the true class is exp(-loss), so small p is large loss
        least = max(1, int(share * len(known)))
        limit = losses.kthvalue(len(known) - least + 1).values.clamp(max=-math.log(threshold))
        keep = losses >= limit
    if weights is not None:
        losses = losses * weights[flat[known]]
    return losses[keep].mean()


def median_frequency(maps: Iterable[np.ndarray], classes: int) -> Tensor:
    """Weights (C,): median class frequency over each class's own, at most 10. Eigen and Fergus, 2015.

    A class's frequency is its share of the pixels of those maps that it occurs in.
    """
    counts, present = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for classes_of in maps:
        found = np.bincount(classes_of.ravel(), minlength=256)[:classes]
        counts += found
        present += classes_of.size * (found > 0)
    frequency = np.divide(counts, present, out=np.ones(classes), where=present > 0)
    weights = np.median(frequency) / np.maximum(frequency, 1e-9)
    return torch.from_numpy(np.minimum(weights, 10.0).astype(np.float32))
