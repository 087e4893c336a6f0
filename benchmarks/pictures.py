"""The pictures of the README: `python -m benchmarks.pictures --road CLIP` writes docs/pictures.

Each picture shows what a bundled network computes in INT8 on this CPU; the table shows what TensorRT-RTX
builds. docs/pictures/README.md has sources and licenses of the frames.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.clips import clip
from edgedeploy.cli.app import main as edgedeploy
from edgedeploy.core.spec import Artifact
from edgedeploy.demo.sources import open_source
from edgedeploy.runtime.select import open_artifact
from edgedeploy.task import task_for

OUT = Path(__file__).parent.parent / "docs" / "pictures"
Picture = NDArray[np.uint8]
WIDTH = 560  # pixels of every picture
DETAIL = (20, 330)  # top left corner in the enlarged film
TARGET = "rtx-4090"
# DBNet is not in the table: in FP16 an output of its trained weights differs by 1.0e-2, and 1e-2 is promised.
TABLE = ("espcn_x3", "ddrnet_23_slim")
# Model -> options of `edgedeploy export`.
MODELS = {
    "espcn_x3": ("--size", "360x640"),
    "ddrnet_23_slim": ("--size", "352x960", "--weights", "camvid"),
    "dbnet_mobilenetv3_large": ("--size", "288x640", "--weights", "icdar13"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--road", type=Path, required=True, help="solidWhiteRight.mp4, see docs/pictures/README.md"
    )
    road = parser.parse_args().road
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        street = frame(road, 20)[156:508]  # the network takes the dark blue sky above for a building
        text = frame(clip("bikes"), 73)
        film = frame(clip("bigbuckbunny"), 131)
        small = cv2.resize(film, (426, 240), interpolation=cv2.INTER_AREA)
        for model, image in zip(MODELS, (cv2.resize(film, (640, 360)), street, text), strict=True):
            (work / model).mkdir()
            cv2.imwrite(str(work / model / "frame.png"), image[..., ::-1])
            run("export", model, *MODELS[model], "-o", work / f"{model}.onnx")
            run("quantize", work / f"{model}.onnx", "--data", work / model, "-o", work / f"{model}.int8.onnx")
        run("export", "espcn_x3", "--size", f"{small.shape[0]}x{small.shape[1]}", "-o", work / "small.onnx")
        run("quantize", work / "small.onnx", "--data", work / "espcn_x3", "-o", work / "small.int8.onnx")
        write("super-resolution.jpg", split(small, drawn(work / "small.int8.onnx", small)))
        write("street.jpg", drawn(work / "ddrnet_23_slim.int8.onnx", street))
        write("text.jpg", drawn(work / "dbnet_mobilenetv3_large.int8.onnx", text))
        write("kernels.png", table([row for model in TABLE for row in kernels(work, model)]))


def frame(path: Path, index: int) -> Picture:
    """One frame of a clip, RGB (H, W, 3)."""
    source = open_source(str(path))
    try:
        return next(entry.rgb for entry in source.frames() if entry.index == index)
    finally:
        source.close()


def run(*words: object) -> dict[str, Any]:
    """The JSON document of an `edgedeploy` command."""
    print("edgedeploy", *words, file=sys.stderr)
    said = io.StringIO()
    sys.argv = ["edgedeploy", *map(str, words), "--json"]
    with contextlib.redirect_stdout(said):
        try:
            edgedeploy()
        except SystemExit as end:
            if end.code:
                raise
    document: dict[str, Any] = json.loads(said.getvalue())
    return document


def drawn(model: Path, image: Picture) -> Picture:
    """The result of a network on an image, drawn by its task."""
    artifact = Artifact.load(model)
    task = task_for(artifact)
    with open_artifact(artifact) as session:
        return task.draw(image, task.run(session, image))


def split(small: Picture, large: Picture) -> Picture:
    """One detail at three times its size: bicubic interpolation on the left, the network on the right."""
    bicubic = cv2.resize(small, large.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    top, left = DETAIL
    area = slice(top, top + WIDTH // 2), slice(left, left + WIDTH // 2)
    return np.hstack([bicubic[area], large[area]])


def kernels(work: Path, model: str) -> list[tuple[str, ...]]:
    """Rows of the table: what TensorRT-RTX makes of a model in FP16 and in INT8."""
    rows = []
    engine_of = ("build", work / f"{model}.onnx", "--target", TARGET, "-o", work / "engine", "--precision")
    # Corrections change values alone, and the table is about kernels.
    calibration = ("--data", work / model, "--set", "calibration.corrections=[]")
    for precision, options in (("fp16", ()), ("int8", calibration)):
        document = run(*engine_of, precision, *options)
        engine = document["details"]["engine"]
        kinds = ", ".join(f"{count} {kind}" for kind, count in engine["convolutions"].items())
        megabytes = f"{document['bytes'] / 1e6:.1f} MB"
        rows.append(
            (model, precision, str(engine["kernels"]), f"{engine['mb_moved']:.0f} MB", megabytes, kinds)
        )
    return rows


def table(rows: list[tuple[str, ...]]) -> Picture:
    """A picture of rows of text."""
    lines = [("model", "", "kernels", "moved", "engine", "convolutions"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / "DejaVuSansMono.ttf"), 18)
    width = int(font.getlength(max(texts, key=len))) + 40
    picture = Image.new("RGB", (width, 30 * len(texts) + 30), (24, 26, 32))
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(texts):
        draw.text(
            (20, 15 + 30 * number), text, font=font, fill=(120, 200, 140) if number == 0 else (225, 225, 225)
        )
    return np.asarray(picture)


def write(name: str, picture: Picture) -> None:
    """Write docs/pictures/NAME; photographs are made WIDTH pixels wide."""
    options: list[int] = []
    if name.endswith(".jpg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, 92]
        height = picture.shape[0] * WIDTH // picture.shape[1]
        picture = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(OUT / name), picture[..., ::-1], options)
    print(f"{OUT / name}: {(OUT / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
