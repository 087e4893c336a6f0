"""Face embeddings by additive-margin softmax over people; evaluated by verification of pairs.

Data: one folder a person (CASIA-WebFace, LFW, ORL), in natural order of the names. The first `people` are for
training, pairs of the others for evaluation; or `validation` is a folder of pairs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.training.augment import color_jitter, shifted
from edgedeploy.models.training.experiment import EXPERIMENTS, Experiment, Objective
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import runner, task_of
from edgedeploy.models.training.recipe import Section
from edgedeploy.models.training.sheets import contact_sheet
from edgedeploy.models.training.tvconv import AMSoftmax
from edgedeploy.task import Image
from edgedeploy.tasks.face_embedding import FOLDS
from edgedeploy.tasks.face_embedding import FaceEmbedding as FaceTask
from edgedeploy.vision.images import list_images, read_image
from edgedeploy.vision.verification import Pair, check_pairs, draw_pairs, read_pairs

SHEET = 24


class FaceSettings(Section):
    """Attributes:
    people: number of people to train on; 0 for all, which needs `validation`.
    validation: folder, below the data folder, with pairs.txt or with people to draw pairs from.
    scale, margin: of the loss, see AMSoftmax.
    flip: mirror half of the examples.
    padding: largest shift of an example in pixels, filled with black.
    jitter: largest relative change of brightness, contrast and saturation.
    """

    people: int = Field(default=0, ge=0)
    validation: str = ""
    scale: float = Field(default=32.0, gt=0)
    margin: float = Field(default=0.35, ge=0)
    flip: bool = True
    padding: int = Field(default=0, ge=0)
    jitter: float = Field(default=0.0, ge=0, lt=1)


@EXPERIMENTS.register
class FaceEmbedding(Experiment[FaceSettings]):
    """Faces (N, 3, h, w) float32, cropped and normalized by the task, and people's indices (N,) int64."""

    name = "face-embedding"
    settings_type = FaceSettings
    metric = "accuracy"

    def prepare(self) -> None:
        people, settings = people_of(self.data, leave_out=self.settings.validation), self.settings
        count = settings.people or len(people)
        if not 2 <= count <= len(people):
            raise UsageError(f"{self.data} holds {len(people)} people, not {count}", "set settings.people")
        self.train = [(file, k) for k, person in enumerate(people[:count]) for file in list_images(person)]
        self.people = count
        self.pairs: list[Pair] = []
        if settings.validation:
            self.pairs = read_pairs(self.data / settings.validation)
        elif len(people) - count >= 2:
            self.pairs = draw_pairs(people[count:])
        if self.pairs:
            check_pairs(self.pairs, FOLDS)
        self.task = cast(FaceTask, task_of(self.info))
        self._read = ImageCache(self._decode)

    def objective(self, network: nn.Module, teacher: nn.Module | None) -> Objective:  # noqa: ARG002
        length = int(self.info.task.options["embedding"])
        return FaceLoss(
            network, AMSoftmax(length, self.people, scale=self.settings.scale, margin=self.settings.margin)
        )

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        return self.task.score(runner(network, self.info), self.pairs) if self.pairs else {}

    def sheet(self, network: nn.Module) -> Image | None:
        """Pairs side by side with their cosine: same person in the upper half, two people in the lower."""
        if not self.pairs:
            return None
        run, pictures = runner(network, self.info), []
        chosen = [pair for same in (True, False) for pair in self.pairs if pair[2] is same][
            :: max(1, len(self.pairs) // SHEET)
        ]
        for first, second, same in chosen[:SHEET]:
            faces = [read_image(file) for file in (first, second)]
            one, other = (self.task.run(run, face) for face in faces)
            height = min(face.shape[0] for face in faces)
            picture = np.hstack([face[:height] for face in faces])
            pictures.append(_with_bar(picture, float(one @ other), same=same))
        return contact_sheet(pictures, 6)

    def _decode(self, index: int) -> Image:
        return read_image(self.train[index][0])

    def example(self, step: int, position: int) -> tuple[np.ndarray, np.int64]:
        rng, index = self.random(step, position), self.index(step, position, len(self.train))
        image = shifted(self._read(index), self.settings.padding, rng)
        image = color_jitter(image, self.settings.jitter, rng)
        (face,) = self.task.preprocess(image).values()
        if self.settings.flip and rng.integers(2):
            face = face[..., ::-1]
        return np.ascontiguousarray(face[0], np.float32), np.int64(self.train[index][1])


class FaceLoss(Objective):
    """The margin loss; its class centers are not part of the network.

    `right` in the log is the share of faces whose own center is the nearest.
    """

    def __init__(self, network: nn.Module, margin: AMSoftmax) -> None:
        super().__init__(network)
        self.margin = margin

    def forward(self, faces: Tensor, people: Tensor) -> dict[str, Tensor]:
        embeddings = self.network(faces).float()
        with torch.no_grad():
            nearest = self.margin.logits(embeddings).argmax(1)
        return {"loss": self.margin(embeddings, people), "right": (nearest == people).float().mean()}


def people_of(data: Path, leave_out: str = "") -> list[Path]:
    """The folders of people, s2 before s10; raises UsageError for fewer than two."""
    folders = [p for p in data.iterdir() if p.is_dir() and p != data / leave_out] if data.is_dir() else []
    if len(folders) < 2:
        raise UsageError(f"{data} holds no folders of people", "it needs PERSON/*.png, one folder a person")
    return sorted(folders, key=_natural)


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _with_bar(picture: Image, cosine: float, *, same: bool) -> Image:
    """The picture above a bar of the cosine's length: green for one person, red for two."""
    bar = np.full((12, picture.shape[1], 3), 235, np.uint8)
    bar[:, : round(max(0.0, cosine) * picture.shape[1])] = (60, 180, 75) if same else (220, 50, 47)
    return np.vstack([picture, bar])
