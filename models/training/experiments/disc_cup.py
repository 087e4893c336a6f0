"""Optic disc and cup of fundus photographs: two sigmoids, cross-validation.

Data: images/NAME.* with masks/NAME.png (Drishti-GS; masks as `read_masks` reads them), or both below `split`.
Images in order of name are cut into n folds: fold k is for evaluation, the others for training.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from pydantic import Field
from torch import Tensor, nn

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models.training.augment import color_jitter, random_crop
from edgedeploy.models.training.experiment import EXPERIMENTS, Experiment, Objective
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
from edgedeploy.models.training.recipe import Range, Section
from edgedeploy.models.training.sheets import contact_sheet
from edgedeploy.models.training.tvconv import disc_cup_loss
from edgedeploy.task import Image
from edgedeploy.tasks.disc_cup import DiscCup as DiscCupTask
from edgedeploy.tasks.disc_cup import photographs, read_masks
from edgedeploy.vision.images import read_image, resize_image

SHEET_ROWS = 6


class DiscCupSettings(Section):
    """Attributes:
    split: folder of images/ and masks/ below the data folder; empty for the data folder itself.
    folds, fold: number of folds, and the one for evaluation, from 0.
    scale: range of the factor by which an example is enlarged before it is cropped.
    often: share of the enlarged examples.
    angle: largest rotation about the center, degrees.
    flip: mirror half of the examples.
    jitter: largest relative change of brightness, contrast and saturation.
    dice: weight of the Dice loss, see `disc_cup_loss`.
    """

    split: str = ""
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    scale: Range = (1.0, 1.5)
    often: float = Field(default=0.5, ge=0, le=1)
    angle: float = Field(default=0.0, ge=0, le=180)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, lt=1)
    dice: float = Field(default=0.0, ge=0)


@EXPERIMENTS.register
class DiscCup(Experiment[DiscCupSettings]):
    """Photographs (N, 3, s, s) float32, normalized as the task says; cup and disc (N, 2, s, s) float32."""

    name = "disc-cup"
    settings_type = DiscCupSettings
    metric = "dice"

    def prepare(self) -> None:
        folds, fold = self.settings.folds, self.settings.fold
        if fold >= folds:
            raise RecipeError(f"there is no fold {fold} of {folds}", "count settings.fold from 0")
        files = photographs(self.data / self.settings.split)
        if len(files) < folds:
            raise UsageError(f"{len(files)} images make no {folds} folds", "set settings.folds")
        for file, mask in files:
            if not mask.is_file():
                raise UsageError(f"{file} has no mask {mask}", "masks/ holds a PNG of the image's name")
        first, last = (len(files) * end // folds for end in (fold, fold + 1))
        self.val, self.train = files[first:last], files[:first] + files[last:]
        self.task = cast(DiscCupTask, task_of(self.info))
        self._read = ImageCache(self._decode)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:  # noqa: ARG002
        return DiscCupLoss(network, self.settings.dice)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        return self.task.score(runner(network, self.info), self.val)

    def sheet(self, network: nn.Module) -> Image:
        """Photograph, prediction, truth."""
        run, pictures = runner(network, self.info), []
        for file, mask in self.val[:SHEET_ROWS]:
            image = read_image(file)
            pictures += [image, self.task.draw(image, self.task.run(run, image))]
            pictures.append(self.task.draw(image, read_masks(mask)))
        return contact_sheet(pictures, 3, 400)

    def _decode(self, index: int) -> tuple[Image, np.ndarray]:
        """A photograph and its masks at twice the network's size, for random crops."""
        file, mask = self.train[index]
        image, masks = read_image(file), read_masks(mask)
        if masks.shape[1:] != image.shape[:2]:
            raise UsageError(f"{file} and its mask differ in size", "resize one to the other")
        side = 2 * self.info.input_shape[2]
        planes = [
            cv2.resize(plane.astype(np.uint8), (side, side), interpolation=cv2.INTER_AREA) for plane in masks
        ]
        return resize_image(image, side, side), np.stack(planes, axis=-1)

    def example(self, step: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        rng, settings = self.random(step, position), self.settings
        image, masks = self._read(self.index(step, position, len(self.train)))
        scale = float(rng.uniform(*settings.scale)) if rng.random() < settings.often else 1.0
        side = min(len(image), max(1, round(len(image) / scale)))
        window = random_crop(image.shape, (side, side), rng)
        image, masks = image[window], masks[window]
        if settings.angle:
            degrees = float(rng.uniform(-settings.angle, settings.angle))
            turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
            image, masks = (
                cv2.warpAffine(part, turn, (side, side)).astype(np.uint8) for part in (image, masks)
            )
        if settings.flip and rng.integers(2):
            image, masks = image[:, ::-1], masks[:, ::-1]
        size = self.info.input_shape[2]
        image = color_jitter(resize_image(np.ascontiguousarray(image), size, size), settings.jitter, rng)
        soft = cv2.resize(np.ascontiguousarray(masks, np.float32), (size, size), interpolation=cv2.INTER_AREA)
        return self.normalize(image), np.ascontiguousarray((soft > 0.5).transpose(2, 0, 1), np.float32)


class DiscCupLoss(Objective):
    """Binary cross-entropy of both masks, plus the weighted Dice loss."""

    def __init__(self, network: nn.Module, dice: float) -> None:
        super().__init__(network)
        self.dice = dice

    def forward(self, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        return {"loss": disc_cup_loss(self.network(images).float(), masks, self.dice)}
