"""Luma super-resolution: the network enlarges Y, bicubic interpolation enlarges Cb and Cr.

Options: `scale`, and `mean` and `std` of the input. A float output is luma in [0, 1], an integer output is
pixels; both are clipped and rounded here. Models of one fixed size run any image: smaller ones are padded,
larger ones tiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.tasks.base import (
    TASKS,
    Array,
    Image,
    Progress,
    Run,
    Task,
    channels_of,
    session_input,
    size_of,
)
from edgedeploy.tasks.colour import luma_from_rgb
from edgedeploy.tasks.images import fit_input, list_images, read_image, to_tensor
from edgedeploy.tasks.luma import tiles, to_pixels, with_chroma
from edgedeploy.tasks.metrics import psnr, ssim
from edgedeploy.tasks.resize import imresize
from edgedeploy.tasks.video import is_video, read_video

Luma = NDArray[Any]  # uint8, or float32 where luma was computed from RGB; 0..255 in both


class SuperResolution(Task):
    """Enlarge an image by `scale`; the result is RGB uint8 (scale*H, scale*W, 3)."""

    name = "super-resolution"
    metric_name = "psnr_y"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.scale = _scale(artifact)
        if channels_of(self.input) != 1:
            raise UsageError(
                f"input {self.input} has more than the luma channel",
                "this task enlarges luma: export with one channel",
            )

    def preprocess(self, image: Image) -> dict[str, Array]:
        return self.luma_feed(luma_from_rgb(fit_input(image, self.input)) * np.float32(255))

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Image:
        height, width = (self.scale * size for size in image.shape[:2])
        luma = self.luma_result(outputs)
        if luma.shape != (height, width):
            luma = np.asarray(
                cv2.resize(luma, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8
            )
        return with_chroma(luma, image)

    def run(self, session: Run, image: Image) -> Image:
        return with_chroma(self.upscale(session, luma_from_rgb(image) * np.float32(255)), image)

    def draw(self, image: Image, result: Any) -> Image:  # noqa: ARG002
        return np.asarray(result, dtype=np.uint8)

    def luma_feed(self, luma: Luma, spec: TensorSpec | None = None) -> dict[str, Array]:
        """Feed of one luma plane (H, W) with values in 0..255, as the network wants it."""
        spec = spec or self.input
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(luma[:, :, None], spec, mean, std)}

    def luma_result(
        self, outputs: Mapping[str, Array], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The enlarged plane (scale*H, scale*W) uint8 of the network's output, written to `out` if given."""
        spec = self.artifact.outputs[0]
        luma = outputs[spec.name]
        if luma.ndim != 4 or 1 not in (luma.shape[1], luma.shape[3]):
            raise UsageError(
                f"output {spec} is not one plane of luma", "this task needs (1, 1, H, W) or (1, H, W, 1)"
            )
        luma = luma[0, 0] if luma.shape[1] == 1 else luma[0, :, :, 0]
        return to_pixels(luma, out)

    def upscale(self, session: Run, luma: Luma, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The enlarged plane (scale*H, scale*W) uint8 of a luma plane (H, W) in 0..255 of any size."""
        spec = session_input(session, self.input)
        height, width = luma.shape
        model = tuple(have or want for have, want in zip(size_of(spec), luma.shape, strict=True))
        if model == luma.shape:
            return self.luma_result(session(self.luma_feed(luma, spec)), out)
        padding = (0, max(0, model[0] - height), 0, max(0, model[1] - width))
        padded = np.asarray(cv2.copyMakeBorder(luma, *padding, cv2.BORDER_REPLICATE), dtype=luma.dtype)
        s = self.scale
        result = np.empty((padded.shape[0] * s, padded.shape[1] * s), np.uint8)
        for y, (top, bottom) in tiles(padded.shape[0], model[0]):
            for x, (left, right) in tiles(padded.shape[1], model[1]):
                tile = self.luma_result(
                    session(self.luma_feed(padded[y : y + model[0], x : x + model[1]], spec))
                )
                result[top * s : bottom * s, left * s : right * s] = tile[
                    (top - y) * s : (bottom - y) * s, (left - x) * s : (right - x) * s
                ]
        cropped = result[: height * s, : width * s]
        if out is None:
            return cropped
        out[:] = cropped
        return out

    def evaluate(
        self, session: Run, data: Path, limit: int | None = None, progress: Progress | None = None
    ) -> dict[str, float]:
        """PSNR and SSIM of luma, borders shaved by the scale, against MATLAB-like bicubic interpolation.

        `data` holds HR/ and LRx{scale}/ (HR is cropped to the size of LR), or any images, or is a video;
        where there is no low resolution it is made by antialiased bicubic shrinking.
        """
        scores: list[tuple[float, float, float, float]] = []
        total, pairs = self._pairs(data)
        for low, high in islice(pairs, limit):
            reference = to_pixels(luma_from_rgb(high))
            luma = luma_from_rgb(low) * np.float32(255)
            network = self.upscale(session, luma)
            bicubic = to_pixels(np.asarray(imresize(luma, *reference.shape) / 255))
            measured = [
                metric(reference, candidate, self.scale)
                for metric in (psnr, ssim)
                for candidate in (network, bicubic)
            ]
            scores.append((measured[0], measured[1], measured[2], measured[3]))
            if progress:
                progress(len(scores), total if limit is None or total is None else min(limit, total))
        if not scores:
            raise UsageError(f"{data} gave no images to measure", "name a folder of images or a video")
        names = ("psnr_y", "psnr_y_bicubic", "ssim_y", "ssim_y_bicubic")
        means = {name: math.fsum(row[i] for row in scores) / len(scores) for i, name in enumerate(names)}
        return {**means, "images": len(scores)}

    def _pairs(self, data: Path) -> tuple[int | None, Iterator[tuple[Image, Image]]]:
        """Number of images where known, and (low resolution, high resolution) of each."""
        if data.is_file() and is_video(data):
            return None, (self._shrunk(frame) for frame in read_video(data))
        if not data.is_dir():
            raise UsageError(
                f"{data} is neither a folder nor a video", "name a folder of images or a video file"
            )
        if (data / "HR").is_dir():
            folder = data / f"LRx{self.scale}"
            files = list_images(folder)
            return len(files), (self._given(file, data / "HR" / file.name) for file in files)
        files = list_images(data)
        return len(files), (self._shrunk(read_image(file)) for file in files)

    def _given(self, low_file: Path, high_file: Path) -> tuple[Image, Image]:
        low, high = read_image(low_file), read_image(high_file)
        height, width = (self.scale * size for size in low.shape[:2])
        if high.shape[0] < height or high.shape[1] < width:
            raise UsageError(
                f"{high_file} is smaller than {self.scale} x {low_file}", "check the scale of the data"
            )
        return low, high[:height, :width]

    def _shrunk(self, image: Image) -> tuple[Image, Image]:
        height, width = (size // self.scale for size in image.shape[:2])
        if not height or not width:
            raise UsageError(
                f"an image of {image.shape[1]}x{image.shape[0]} cannot be shrunk by {self.scale}",
                "use larger images",
            )
        high = image[: height * self.scale, : width * self.scale]
        return imresize(high, height, width), high


def _scale(artifact: Artifact) -> int:
    """The option, else what the static shapes say."""
    scale = artifact.task.options.get("scale")
    if scale is None:
        before, after = (size_of(spec)[0] for spec in (artifact.inputs[0], artifact.outputs[0]))
        scale = after // before if before and after else 0
    if not isinstance(scale, int) or scale < 1:
        raise UsageError(
            f"{artifact.path} does not say by which factor it enlarges",
            "export it with the task option scale",
        )
    return scale


TASKS.register("super-resolution")(SuperResolution)
