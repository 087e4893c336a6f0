"""Models with real weights, images to calibrate them on, and what they are scored on: disjoint images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.place.placement import prepared
from edgedeploy.core.parity import compare
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.core.target import load_target
from edgedeploy.task import task_for
from edgedeploy.vision.images import is_image, list_images, read_image

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], dict[str, NDArray[Any]]]
SHARED = Path(os.environ.get("EDGEDEPLOY_SHARED", Path(__file__).resolve().parents[2] / "shared"))


class NoWeights(Exception):
    """A model of the zoo whose weights are not there."""


@dataclass(frozen=True)
class Case:
    """A row group of the table.

    Attributes:
        model: folded float32 ONNX, the same file for every tool.
        feeds: calibration inputs.
        scores: metrics of a network that runs; larger is better.
        allowed: by how much a metric may fall below float's, or "least NAME" -> the least it may be.
    """

    name: str
    model: Path
    feeds: list[Feeds]
    scores: Callable[[Run, Run], dict[str, float]]
    allowed: dict[str, float] = field(default_factory=dict)


def folded(source: str, folder: Path, name: str, *edits: str, weights: str | None = None) -> Artifact:
    """A model after all graph passes, in `folder`."""
    from edgedeploy.cli.console import Reporter
    from edgedeploy.core.cache import Cache
    from edgedeploy.core.job import Job
    from edgedeploy.pipeline import deliver, run

    job = Job(source, Recipe().edited(edits), load_target("cpu"), weights=weights)
    artifact = deliver(run(job, Reporter(quiet=True), Cache(), "optimize"), folder / f"{name}.onnx")
    # Scales per channel need opset 13, and not every peer raises an older one by itself.
    onnx.save(prepared(onnx.load(artifact.path))[0], artifact.path)
    return artifact


def fixed(source: Path, folder: Path, shape: tuple[int, ...]) -> Path:
    """A copy of a model whose first input has one shape, and without weights among its inputs."""
    model = onnx.load(source)
    constants = {entry.name for entry in model.graph.initializer}
    for position in reversed(range(len(model.graph.input))):
        if model.graph.input[position].name in constants:
            del model.graph.input[position]
    dims = model.graph.input[0].type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size
    out = folder / f"fixed_{source.name}"
    onnx.save(model, out)
    return out


def espcn(scale: int, folder: Path, images: int) -> Case:
    artifact = folded(f"espcn_x{scale}", folder, f"espcn_x{scale}", "capture.dynamic=true")
    task = task_for(artifact)
    chosen = list_images(SHARED / "data/sr/BSD200")
    feeds = [task.preprocess(read_image(path)) for path in spread(chosen, images)]

    def scores(run: Run, reference: Run) -> dict[str, float]:  # noqa: ARG001
        return {"PSNR dB": task.evaluate(run, SHARED / "data/sr/Set5")["psnr_y"]}

    return Case(f"ESPCN x{scale}, Set5", artifact.path, feeds, scores, {"PSNR dB": 0.05})


def dbnet(folder: Path, images: int, limit: int) -> Case:
    """PP-OCRv3's detector: calibrated on one text set's first photos, scored on the rest and on others."""
    source = fixed(SHARED / "data/models/ppocrv3_det_DBNet.onnx", folder, (1, 3, 640, 640))
    artifact = folded(str(source), folder, "ppocrv3_det")
    options = {
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "channel_order": "BGR",
        "box_threshold": 0.5,
    }
    task = task_for(artifact.model_copy(update={"task": TaskSpec(name="text-detection", options=options)}))
    photos = list_images(SHARED / "data/text_icdar13/train_images")
    used = spread(photos, images)
    others = [path for path in photos if path not in set(used)][:limit]

    def scores(run: Run, reference: Run) -> dict[str, float]:
        from edgedeploy.vision.icdar import TextScore, read_words

        counts, overlaps = TextScore(), []
        for path in others:
            image = read_image(path)
            feeds = task.preprocess(image)
            found, wanted = run(feeds), reference(feeds)
            (ours,), (theirs,) = found.values(), wanted.values()
            a, b = ours > 0.3, theirs > 0.3
            overlaps.append(float((a & b).sum() / max((a | b).sum(), 1)))
            truth = path.parent.with_name("train_gts") / f"gt_{path.stem}.txt"
            counts.add(read_words(truth), task.postprocess(found, image).polygons)
        return {
            "F %": 100 * counts.f_measure,
            "mask IoU": float(np.mean(overlaps)),
            "worst IoU": float(np.min(overlaps)),
        }

    allowed = {"F %": 0.5, "mask IoU": 0.015, "worst IoU": 0.07}
    return Case(
        "PP-OCRv3 DBNet, icdar13",
        artifact.path,
        [task.preprocess(read_image(p)) for p in used],
        scores,
        allowed,
    )


def resnet20(folder: Path, images: int, limit: int) -> Case:
    from benchmarks.int8_resnet20 import export

    artifact = folded(
        str(export(SHARED / "data/models/cifar10_resnet20-12fca82f.th", folder)), folder, "resnet20"
    )

    def pictures(part: str, count: int) -> Iterator[tuple[Feeds, int]]:
        with np.load(SHARED / f"data/cifar10/{part}.npz") as archive:
            data, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
        for i in range(count):
            pixels = cv2.imdecode(data[offsets[i] : offsets[i + 1]], cv2.IMREAD_COLOR)[:, :, ::-1]
            x = (pixels / np.float32(255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            yield {"x": np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)}, int(labels[i])

    def scores(run: Run, reference: Run) -> dict[str, float]:  # noqa: ARG001
        hits = [next(iter(run(feeds).values())).argmax() == label for feeds, label in pictures("test", limit)]
        return {"top-1 %": 100 * float(np.mean(hits))}

    feeds = [feeds for feeds, _ in pictures("train", images)]
    return Case("ResNet-20, CIFAR-10", artifact.path, feeds, scores, {"top-1 %": 0.5})


def unlabeled(name: str, model: str, shape: tuple[int, ...], mean: float, std: float, bgr: bool) -> Any:
    """A case whose score is how near the outputs come to float's, in dB, averaged over outputs and images."""

    def make(folder: Path, images: int, limit: int) -> Case:
        source = fixed(SHARED / "data/models" / model, folder, shape)
        artifact = folded(str(source), folder, name.split()[0].lower())
        photos = sorted(p for p in (SHARED / "data/imagenette/val").rglob("*") if is_image(p))
        (key,) = (spec.name for spec in artifact.inputs)

        def feed(path: Path) -> Feeds:
            pixels = cv2.resize(read_image(path), shape[:1:-1], interpolation=cv2.INTER_LINEAR)
            pixels = pixels[:, :, ::-1] if bgr else pixels
            x = (pixels.astype(np.float32) - mean) / std
            return {key: np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32)}

        def scores(run: Run, reference: Run) -> dict[str, float]:
            found = []
            for path in spread(photos[1::2], limit):
                ours, theirs = run(feed(path)), reference(feed(path))
                found.append(np.mean([min(compare(theirs[k], ours[k]).sqnr_db, 99) for k in theirs]))
            return {"SQNR dB": float(np.mean(found))}

        return Case(name, artifact.path, [feed(p) for p in spread(photos[::2], images)], scores)

    return make


def zoo(name: str, data: str, metric: str, allowed: float, *edits: str) -> Any:
    """A model of the zoo on its own task's data, as soon as its weights are bundled."""

    def make(folder: Path, images: int, limit: int) -> Case:
        from edgedeploy.models.checkpoint import bundled_weights

        weights = bundled_weights(name)
        if not weights:
            raise NoWeights(name)
        artifact = folded(name, folder, name, *edits, weights=weights[0])
        task = task_for(artifact)
        root = SHARED / "data" / data
        chosen = list_images(root / "train") or list_images(root)
        feeds = [task.preprocess(read_image(path)) for path in spread(chosen, images)]

        def scores(run: Run, reference: Run) -> dict[str, float]:  # noqa: ARG001
            return {metric: 100 * task.evaluate(run, root, limit)[metric]}

        return Case(f"{name}, {data}", artifact.path, feeds, scores, {metric: allowed})

    return make


def spread(entries: list[Any], count: int) -> list[Any]:
    """`count` of the entries, evenly spread."""
    return [entries[i * len(entries) // count] for i in range(count)] if len(entries) > count else entries


CASES: dict[str, Callable[[Path, int, int], Case]] = {
    "espcn-x2": lambda folder, images, limit: espcn(2, folder, images),  # noqa: ARG005
    "espcn-x3": lambda folder, images, limit: espcn(3, folder, images),  # noqa: ARG005
    "espcn-x4": lambda folder, images, limit: espcn(4, folder, images),  # noqa: ARG005
    "dbnet": dbnet,
    "resnet20": lambda folder, images, limit: resnet20(folder, 4 * images, 40 * limit),
    "yunet": unlabeled("YuNet", "yunet_n_320_320.onnx", (1, 3, 320, 320), 0, 1, True),
    "ultraface": unlabeled(
        "UltraFace", "ultraface_slim-320_simplified.onnx", (1, 3, 240, 320), 127, 128, False
    ),
    "cls": unlabeled(
        "PP-OCR cls", "ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192), 127.5, 127.5, True
    ),
    "ddrnet": zoo("ddrnet_23_slim", "camvid", "miou", 0.3, "capture.height=360", "capture.width=480"),
    "tvconv": zoo("tvconv_face_x0_1", "faces_orl", "accuracy", 0.5),
}
