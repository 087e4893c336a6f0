"""Super-resolution of luma (bicubic interpolation enlarges Cb and Cr) or of RGB.

Options: `scale`; `mean` and `std` of the input; `color`: luma or rgb; `margin`: receptive field in pixels on
each side. A float output is in [0, 1], an integer output holds pixels; both are clipped and rounded here. A
model of fixed size runs any image: a smaller one is padded, a larger one tiled.
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
from edgedeploy.task import TASKS, Array, Image, Progress, Run, Task, channels_of, session_input, size_of
from edgedeploy.vision.color import luma_from_rgb
from edgedeploy.vision.images import fit_input, list_images, read_image, to_tensor
from edgedeploy.vision.luma import MARGIN, tiles, to_pixels, with_chroma
from edgedeploy.vision.metrics import psnr, ssim
from edgedeploy.vision.resize import imresize
from edgedeploy.vision.video import is_video, read_video

# 0..255, uint8, or float32 for luma computed from RGB; (H, W), or (H, W, 3) for an RGB network
Pixels = NDArray[Any]


@TASKS.register
class SuperResolution(Task):
    """Enlarge an image by `scale`; the result is RGB uint8 (scale*H, scale*W, 3)."""

    name = "super-resolution"
    metric_name = "psnr_y"
    budget = ("psnr_y>=-0.05",)
    budget_without_labels = ("sqnr>=40",)
    score_columns = (("psnr_y", "PSNR-Y dB", ".2f"), ("psnr_y_bicubic", "bicubic dB", ".2f"))

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.scale = _scale(artifact)
        color, margin = self.options.get("color", "luma"), self.options.get("margin", MARGIN)
        if color not in ("luma", "rgb"):
            raise UsageError(f"{artifact.path}: unknown color {color!r}", "known: luma, rgb")
        if not isinstance(margin, int) or margin < 0:
            raise UsageError(
                f"{artifact.path}: a margin of {margin!r} is no number of pixels", "give 0 or more"
            )
        self.rgb, self.margin = color == "rgb", margin
        channels = channels_of(self.input)
        if channels != (3 if self.rgb else 1):
            raise UsageError(
                f"input {self.input} has {channels} channels, not {'RGB' if self.rgb else 'luma'}",
                "export it with the task option color: luma for one channel, rgb for three",
            )

    def preprocess(self, image: Image, spec: TensorSpec | None = None) -> dict[str, Array]:
        spec = spec or self.input
        return self.feed(self.network_pixels(fit_input(image, spec)), spec)

    def postprocess(self, outputs: Mapping[str, Array], image: Image) -> Image:
        height, width = (self.scale * size for size in image.shape[:2])
        result = self.result(outputs)
        if result.shape[:2] != (height, width):
            result = np.asarray(cv2.resize(result, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        return result if self.rgb else with_chroma(result, image)

    def run(self, session: Run, image: Image) -> Image:
        result = self.upscale(session, self.network_pixels(image))
        return result if self.rgb else with_chroma(result, image)

    def network_pixels(self, image: Image) -> Pixels:
        """RGB (H, W, 3) uint8, or luma (H, W) float32 in 0..255, as the network takes it."""
        return image if self.rgb else luma_from_rgb(image) * np.float32(255)

    def draw(self, image: Image, result: Any) -> Image:  # noqa: ARG002
        return np.asarray(result, dtype=np.uint8)

    def feed(self, pixels: Pixels, spec: TensorSpec | None = None) -> dict[str, Array]:
        """Feed of one luma plane (H, W) or RGB (H, W, 3), values in 0..255."""
        spec = spec or self.input
        mean, std = self.options.get("mean", [0.0]), self.options.get("std", [255.0])
        return {spec.name: to_tensor(np.atleast_3d(pixels), spec, mean, std)}

    def result(self, outputs: Mapping[str, Array], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The output as uint8, (scale*H, scale*W) or (scale*H, scale*W, 3); written to `out` if given."""
        spec = self.artifact.outputs[0]
        values, channels = outputs[spec.name], 3 if self.rgb else 1
        if values.ndim != 4 or channels not in (values.shape[1], values.shape[3]):
            raise UsageError(
                f"output {spec} is not one {'RGB image' if self.rgb else 'plane of luma'}",
                f"this task needs (1, {channels}, H, W) or (1, H, W, {channels})",
            )
        first = values.shape[1] == channels
        if not self.rgb:
            return to_pixels(values[0, 0] if first else values[0, :, :, 0], out)
        height, width = values.shape[2:] if first else values.shape[1:3]
        flat = to_pixels(values.reshape(-1, values.shape[3] if first else width * channels))
        image = flat.reshape(3, height, width).transpose(1, 2, 0) if first else flat.reshape(height, width, 3)
        if out is None:
            return np.ascontiguousarray(image)
        out[:] = image
        return out

    def upscale(
        self, session: Run, pixels: Pixels, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """uint8 (scale*H, scale*W) or (scale*H, scale*W, 3) of pixels of any size; shapes as in `feed`."""
        spec = session_input(session, self.input)
        height, width, *channels = pixels.shape
        model = tuple(have or want for have, want in zip(size_of(spec), (height, width), strict=True))
        if model == (height, width):
            return self.result(session(self.feed(pixels, spec)), out)
        padding = (0, max(0, model[0] - height), 0, max(0, model[1] - width))
        padded = np.asarray(cv2.copyMakeBorder(pixels, *padding, cv2.BORDER_REPLICATE), dtype=pixels.dtype)
        s = self.scale
        result = np.empty((padded.shape[0] * s, padded.shape[1] * s, *channels), np.uint8)
        for y, (top, bottom) in tiles(padded.shape[0], model[0], self.margin):
            for x, (left, right) in tiles(padded.shape[1], model[1], self.margin):
                tile = self.result(session(self.feed(padded[y : y + model[0], x : x + model[1]], spec)))
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
        """PSNR and SSIM of luma without a border of `scale` pixels, beside those of bicubic interpolation.

        An RGB network also gets `psnr_rgb`, over three channels without a border of scale + 4, as in STDO.
        `data` holds HR/ and LRx{scale}/ (HR is cropped to the size of LR), or images, or is a video; missing
        low resolution is made by antialiased bicubic interpolation, as in MATLAB.
        """
        scores: list[dict[str, float]] = []
        total, pairs = self.pairs(data)
        for low, high in islice(pairs, limit):
            scores.append(self._score(session, low, high))
            if progress:
                progress(len(scores), total if limit is None or total is None else min(limit, total))
        if not scores:
            raise UsageError(f"{data} gave no images to measure", "name a folder of images or a video")
        means = {name: math.fsum(row[name] for row in scores) / len(scores) for name in scores[0]}
        return {**means, "images": len(scores)}

    def _score(self, session: Run, low: Image, high: Image) -> dict[str, float]:
        enlarged = self.upscale(session, self.network_pixels(low))
        reference, luma = to_pixels(luma_from_rgb(high)), luma_from_rgb(low) * np.float32(255)
        network = to_pixels(luma_from_rgb(enlarged)) if self.rgb else enlarged
        bicubic = to_pixels(np.asarray(imresize(luma, *reference.shape) / 255))
        scores = {
            f"{name}{which}": metric(reference, candidate, self.scale)
            for name, metric in (("psnr_y", psnr), ("ssim_y", ssim))
            for which, candidate in (("", network), ("_bicubic", bicubic))
        }
        if self.rgb:
            border = self.scale + 4
            scores["psnr_rgb"] = psnr(high, enlarged, border)
            scores["psnr_rgb_bicubic"] = psnr(high, imresize(low, *reference.shape), border)
        return scores

    def pairs(self, data: Path) -> tuple[int | None, Iterator[tuple[Image, Image]]]:
        """(number of images or None, pairs of (low resolution, high resolution)); see `evaluate`.

        Raises UsageError for other data at once, for a damaged image when it is read.
        """
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
    """Option `scale`, else the ratio of the static shapes."""
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
