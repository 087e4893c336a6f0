"""Luma super-resolution from folders of photographs; the loss is the mean PSNR of patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import cast

from pydantic import Field
from torch import Tensor, nn

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.core.sampling import evenly_spaced
from edgedeploy.models.training.experiment import EXPERIMENTS, Batch, Experiment, Objective
from edgedeploy.models.training.measure import measure, runner, task_of
from edgedeploy.models.training.patches import draw_batch, load_pairs
from edgedeploy.models.training.recipe import Section
from edgedeploy.models.training.sheets import contact_sheet
from edgedeploy.task import Image
from edgedeploy.tasks.super_resolution import SuperResolution as SuperResolutionTask
from edgedeploy.vision.resize import imresize

SHEET_ROWS, SHEET_SIDE = 6, 200


class SuperResolutionSettings(Section):
    """Attributes:
    scale: factor of super-resolution.
    folders: below the data folder; all give the same number of patches.
    patch: side of a patch, low-resolution pixels.
    floor: mean squared error below which a patch stops to count, see `patch_loss`.
    shrink: sizes at which photographs are used, relative; 1.0 is the photograph itself.
    memory: gigabytes of decoded pairs to keep; others are decoded whenever drawn, with the same batches.
    validation: folder or video below the data folder, as the task's metric reads it.
    """

    scale: int = Field(ge=2)
    folders: tuple[str, ...] = Field(min_length=1)
    patch: int = Field(default=24, ge=1)
    floor: float = Field(default=3e-4, gt=0)
    shrink: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    memory: float = Field(default=1.0, ge=0)
    validation: str = ""


@EXPERIMENTS.register
class SuperResolution(Experiment[SuperResolutionSettings]):
    """Pairs of patches, low and high resolution, (N, 1, h, w)."""

    name = "super-resolution"
    settings_type = SuperResolutionSettings
    metric = "psnr_y"

    def prepare(self) -> None:
        scale = self.info.task.options.get("scale")
        if scale != self.settings.scale:
            raise RecipeError(f"{self.info.name} enlarges by {scale}", f"set settings.scale={scale}")
        self.pairs = load_pairs(self.data, self.settings)
        self.task = cast(SuperResolutionTask, task_of(self.info))
        self.validation = self.data / self.settings.validation if self.settings.validation else None
        if self.validation is not None:
            try:
                next(iter(self.task.pairs(self.validation)[1]), None)
            except UsageError as error:
                raise UsageError(
                    f"settings.validation: {error}",
                    f"name a folder of {self.data} with images, or with HR/ and LRx{scale}/, or leave it out",
                ) from None

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        return draw_batch(
            self.pairs,
            self.settings,
            batch=self.recipe.batch,
            positions=positions,
            seed=self.recipe.seed,
            step=step,
        )

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:  # noqa: ARG002
        return PatchPsnr(network, self.settings.floor)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        return measure(network, self.info, self.validation) if self.validation is not None else {}

    def sheet(self, network: nn.Module) -> Image:
        """Bicubic, prediction, truth: the center of each image, or all of a small one."""
        run, pictures = runner(network, self.info), []
        for low, high in self._examples():
            for picture in (imresize(low, *high.shape[:2]), self.task.run(run, low), high):
                y, x = (max(0, (side - SHEET_SIDE) // 2) for side in picture.shape[:2])
                pictures.append(picture[y : y + SHEET_SIDE, x : x + SHEET_SIDE])
        return contact_sheet(pictures, 3, 2 * SHEET_SIDE)

    def _examples(self) -> Iterable[tuple[Image, Image]]:
        """Low and high resolution for the sheet: of the validation or, without any, the training images."""
        if self.validation is not None:
            return islice(self.task.pairs(self.validation)[1], SHEET_ROWS)
        return map(self.pairs.picture, evenly_spaced(len(self.pairs.sources), SHEET_ROWS))


class PatchPsnr(Objective):
    """Mean of ln(MSE + floor) over the patches of a batch; `error` is the mean squared error."""

    def __init__(self, network: nn.Module, floor: float) -> None:
        super().__init__(network)
        self.floor = floor

    def forward(self, low: Tensor, high: Tensor) -> dict[str, Tensor]:
        loss, errors = patch_loss(self.network(low), high, self.floor)
        return {"loss": loss, "error": errors.mean()}


def patch_loss(output: Tensor, target: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Loss of a batch (N, 1, H, W): mean of ln(MSE + floor) over its patches; and the MSE of each.

    This is the PSNR of the evaluation: an average of logarithms, in which smooth and detailed images count
    alike. `floor` keeps flat patches, with errors near zero, from dominating.
    """
    errors = (output.float() - target).square().mean((1, 2, 3))
    return (errors + floor).log().mean(), errors.detach()
