"""Text detection as DBNet learns it: shrunk words, borders of words, hard negatives.

Data: folders of photographs below the data folder, laid out as icdar2015, total-text or td500, see
vision/text_data.py, and images on which text_render.py draws synthetic words. `synthetic` is their share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models.training.augment import color_jitter, random_crop
from edgedeploy.models.training.dbnet_labels import make_maps
from edgedeploy.models.training.dbnet_loss import DBLoss
from edgedeploy.models.training.experiment import EXPERIMENTS, Experiment, Objective
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
from edgedeploy.models.training.recipe import Range, Section
from edgedeploy.models.training.sheets import contact_sheet
from edgedeploy.models.training.text_augment import random_view
from edgedeploy.models.training.text_render import Style, find_fonts, render
from edgedeploy.task import Image
from edgedeploy.tasks.text_detection import TextDetection as TextTask
from edgedeploy.vision.icdar import Word
from edgedeploy.vision.images import list_images, read_image, resize_image
from edgedeploy.vision.text_data import find_texts
from edgedeploy.vision.text_regions import TextRegions

SHEET_ROWS = 8


class TextSettings(Section):
    """Attributes:
    folders: data sets below the data folder, all of one layout; none with synthetic=1.
    layout: icdar2015, total-text or td500.
    held_out: number of images of the first folder, by name, for evaluation instead of training.
    test: evaluate on the first folder's test split instead.
    synthetic: share of the rendered examples.
    backgrounds: folders of photographs without text to render on.
    fonts: folder of .ttf files; empty for matplotlib's and the system's.
    text_height: range of the height of rendered words, pixels of the crop; too wide words are left out.
    crop: height and width of an example, pixels.
    scale, angle, flip: see `random_view`.
    jitter: largest relative change of brightness, contrast and saturation.
    """

    folders: tuple[str, ...] = ()
    layout: Literal["icdar2015", "total-text", "td500"] = "icdar2015"
    held_out: int = Field(default=0, ge=0)
    test: bool = False
    synthetic: float = Field(default=0.0, ge=0, le=1)
    backgrounds: tuple[str, ...] = ()
    fonts: str = ""
    text_height: Range = (12.0, 72.0)
    crop: tuple[int, int] = (640, 640)
    scale: Range = (0.5, 3.0)
    angle: float = Field(default=10.0, ge=0, le=180)
    flip: bool = True
    jitter: float = Field(default=0.0, ge=0, lt=1)


@EXPERIMENTS.register
class TextDetection(Experiment[TextSettings]):
    """Images (N, 3, h, w) float32, normalized as the task says, and four maps (N, 1, h, w) of TextMaps."""

    name = "text-detection"
    settings_type = TextSettings
    metric = "f_measure"

    def prepare(self) -> None:
        settings = self.settings
        if not self.recipe.options.get("augment"):
            raise RecipeError("without its threshold map DBNet cannot learn", "set options.augment=true")
        if any(side % 32 for side in settings.crop):
            raise RecipeError(f"a crop of {settings.crop} is not of whole 32 pixels", "set settings.crop")
        sets = [find_texts(self.data / folder, settings.layout) for folder in settings.folders]
        self.val: list[tuple[Path, list[Word]]] = []
        if sets and settings.test:
            self.val = find_texts(self.data / settings.folders[0], settings.layout, "test")
        elif sets:
            self.val, sets[0] = sets[0][: settings.held_out], sets[0][settings.held_out :]
        self.train = [pair for pairs in sets for pair in pairs]
        self.grounds = [file for name in settings.backgrounds for file in list_images(self.data / name)]
        if settings.synthetic < 1 and not self.train:
            raise UsageError("there are no photographs to train on", "name settings.folders, or synthetic=1")
        if settings.synthetic > 0 and not self.grounds:
            raise UsageError("there is nothing to render words on", "name settings.backgrounds")
        self.fonts = find_fonts(settings.fonts) if settings.synthetic else ()
        self.task = cast(TextTask, task_of(self.info))
        self._read = ImageCache(self._decode)
        self._ground = ImageCache(self._decode_ground)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:  # noqa: ARG002
        return TextLoss(network)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        return self.task.score(runner(network, self.info), self.val) if self.val else {}

    def sheet(self, network: nn.Module) -> Image:
        """Held-out photographs, prediction beside truth; without any, training examples with their truth."""
        run, pictures = runner(network, self.info), []
        for file, words in self.val[:SHEET_ROWS]:
            image = read_image(file)
            pictures += [self.task.draw(image, self.task.run(run, image)), self._truth(image, words)]
        if not pictures:
            for position in range(2 * SHEET_ROWS):
                pictures.append(self._truth(*self.view(0, position)))
        return contact_sheet(pictures, 4, 400)

    def view(self, step: int, position: int) -> tuple[Image, list[Word]]:
        """The image and the words of one example."""
        rng, settings = self.random(step, position), self.settings
        if rng.random() < settings.synthetic:
            ground = self._ground(int(rng.integers(len(self.grounds))))
            image = _window(ground, settings.crop, rng)
            image, words = render(image, self.fonts, rng, Style(height=settings.text_height))
        else:
            index = self.index(step, position, len(self.train))
            image, words = random_view(
                self._read(index),
                self.train[index][1],
                settings.crop,
                rng,
                scale=settings.scale,
                angle=settings.angle,
                flip=settings.flip,
            )
        return color_jitter(image, settings.jitter, rng), words

    def _decode(self, index: int) -> Image:
        return read_image(self.train[index][0])

    def _decode_ground(self, index: int) -> Image:
        return read_image(self.grounds[index])

    def example(self, step: int, position: int) -> tuple[np.ndarray, ...]:
        image, words = self.view(step, position)
        maps = make_maps(words, *self.settings.crop)
        planes = (maps.text, maps.text_mask, maps.border, maps.border_mask)
        return self.normalize(image), *(plane[None] for plane in planes)

    def _truth(self, image: Image, words: Sequence[Word]) -> Image:
        outlines = tuple(word.polygon for word in words if not word.ignored)
        return self.task.draw(image, TextRegions(outlines, (1.0,) * len(outlines)))


class TextLoss(Objective):
    """DBNet's loss, always in float32: cross-entropy of probabilities has no half precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.terms = DBLoss()

    def forward(
        self, images: Tensor, text: Tensor, text_mask: Tensor, border: Tensor, border_mask: Tensor
    ) -> dict[str, Tensor]:
        maps: tuple[Tensor, ...] = self.network(images)
        with torch.autocast(images.device.type, enabled=False):
            probability, threshold, binary = (each.float() for each in maps)
            loss = self.terms((probability, threshold, binary), text, text_mask, border, border_mask)
        return {"loss": loss}


def _window(image: Image, crop: tuple[int, int], rng: np.random.Generator) -> Image:
    """A window of the crop's aspect ratio, resized to the crop."""
    height, width = crop
    scale = min(image.shape[0] / height, image.shape[1] / width) * float(rng.uniform(0.6, 1.0))
    rows, columns = max(1, int(height * scale)), max(1, int(width * scale))
    return resize_image(image[random_crop(image.shape, (rows, columns), rng)], height, width)
