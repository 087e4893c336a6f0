"""Face verification: a unit-length embedding per aligned face, compared by squared distance.

Options: `mean` and `std` of the input; `channels`: "rgb" or "bgr" (the released training code reads RGB, its
evaluation BGR). The network sees the center square of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.agreement import cosine
from edgedeploy.core.errors import UsageError
from edgedeploy.core.progress import reported
from edgedeploy.core.spec import TensorSpec
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task
from edgedeploy.vision.images import fit_input, read_image, to_tensor
from edgedeploy.vision.verification import (
    Pair,
    area_under_curve,
    check_pairs,
    equal_error_rate,
    k_fold_accuracy,
    read_pairs,
)

FOLDS = 10


@TASKS.register
class FaceEmbedding(Task):
    """Embedding of one face; the result is float32 (D,) of length 1."""

    name = "face-embedding"
    metric_name = "accuracy"
    budget = ("accuracy>=-0.5",)
    budget_without_labels = ("agreement>=0.99",)

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec, order = spec or self.input, self.options.get("channels", "rgb")
        if order not in ("rgb", "bgr"):
            raise UsageError(f"channels are '{order}'", "write rgb or bgr")
        side = min(image.shape[:2])
        top, left = ((size - side) // 2 for size in image.shape[:2])
        face = fit_input(image[top : top + side, left : left + side], spec)
        mean, std = self.options.get("mean", [127.5]), self.options.get("std", [127.5])
        return {spec.name: to_tensor(face if order == "rgb" else face[:, :, ::-1], spec, mean, std)}

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> NDArray[np.float32]:  # noqa: ARG002
        values = outputs[self.artifact.outputs[0].name].reshape(-1).astype(np.float64)
        length = float(np.linalg.norm(values))
        if not np.isfinite(length) or length == 0:
            raise UsageError("the embedding is zero or not finite", "check the weights and the precision")
        return (values / length).astype(np.float32)

    def measure(self, reference: Array, values: Array) -> float:
        """Cosine of the angle between the two embeddings."""
        return cosine(reference, values)

    def draw(self, image: Image, result: Any) -> Image:
        """The image above a strip of the embedding: one column per value, blue negative, red positive."""
        height, width = max(12, image.shape[0] // 10), image.shape[1]
        share = np.clip(result / max(float(np.abs(result).max()), 1e-12), -1, 1)[None, :, None]
        red, blue = np.array([220, 50, 47]), np.array([38, 139, 210])
        colors = 255 + np.where(share > 0, (red - 255) * share, (255 - blue) * share)
        strip = cv2.resize(np.rint(colors).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return np.concatenate([image, strip]).astype(np.uint8)

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """Verification accuracy by ten folds: threshold and center come from the nine other folds.

        `read_pairs` describes `data`; `limit` is the number of pairs. Every image is run once.
        """
        return self.score(session, read_pairs(data, limit), progress)

    def score(
        self, session: Run, pairs: Sequence[Pair], progress: Progress | None = None
    ) -> dict[str, float]:
        """The metrics of `evaluate` over these pairs of image files."""
        check_pairs(pairs, FOLDS)
        files = sorted({file for first, second, _ in pairs for file in (first, second)})
        embeddings = {file: self.run(session, read_image(file)) for file in reported(files, progress)}
        first = np.stack([embeddings[file] for file, _, _ in pairs]).astype(np.float64)
        second = np.stack([embeddings[file] for _, file, _ in pairs]).astype(np.float64)
        same = np.array([match for _, _, match in pairs])
        distance = np.square(first - second).sum(axis=1)
        accuracy, deviation = k_fold_accuracy(first, second, same, FOLDS)
        return {
            "accuracy": accuracy,
            "accuracy_std": deviation,
            "auc": area_under_curve(distance, same),
            "equal_error_rate": equal_error_rate(distance, same),
            "pairs": len(pairs),
            "images": len(files),
        }
