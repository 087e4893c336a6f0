"""Synthetic scene text: words in real fonts, seen in perspective, blurred and noisy, on real photographs.

The quadrilateral of each word is exact. Images depend on the random generator and on the installed fonts.
After Gupta et al., Synthetic Data for Text Localization in Natural Images, 2016, without its scene geometry.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from edgedeploy.core.errors import UsageError
from edgedeploy.task import Image
from edgedeploy.vision.icdar import Word

SYSTEM = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
SYLLABLES = (
    "an ar be co da de di el en er fo ha in is ka le lo ma me mi ne no on or pa ra re ri ro sa se to ve"
)
GLYPHS = 64  # pixels of the size at which words are drawn, before they are fitted into the picture
TRIES = 8
MARGIN = 2  # pixels about a word that may change with it


@dataclass(frozen=True)
class Style:
    """Ranges of the number and the height (pixels) of words, and largest relative shift of a corner."""

    words: tuple[int, int] = (3, 14)
    height: tuple[float, float] = (12.0, 72.0)
    tilt: float = 0.25


def find_fonts(folder: str = "") -> tuple[Path, ...]:
    """Fonts with Latin letters below `folder`, or matplotlib's and the system's; raises UsageError."""
    roots = [Path(folder)] if folder else [_matplotlib_fonts(), *map(Path, SYSTEM)]
    files = {path.name: path for root in roots for path in sorted(root.rglob("*.[to]tf"))}
    fonts = tuple(path for _, path in sorted(files.items()) if _has_letters(path))
    if not fonts:
        raise UsageError(f"there are no fonts in {', '.join(map(str, roots))}", "name a folder of .ttf files")
    return fonts


def render(
    background: Image, fonts: Sequence[Path], rng: np.random.Generator, style: Style | None = None
) -> tuple[Image, list[Word]]:
    """The background (H, W, 3) with words that do not overlap, and the words."""
    style = style or Style()
    picture = background.astype(np.float32)
    words: list[Word] = []
    taken = np.zeros(background.shape[:2], np.uint8)
    for _ in range(int(rng.integers(style.words[0], style.words[1] + 1))):
        mask = draw_word(random_text(rng), fonts[int(rng.integers(len(fonts)))])
        for _ in range(TRIES):
            quad = _place(mask.shape, background.shape, rng, style)
            outline = [np.rint(quad).astype(np.int32)]
            if quad.min() < 0 or (quad.max(0) >= background.shape[1::-1]).any():
                continue
            area = np.asarray(cv2.fillPoly(np.zeros_like(taken), outline, [1]), np.uint8)
            if not (area & taken).any():
                taken |= np.asarray(cv2.dilate(area, np.ones((5, 5), np.uint8)), np.uint8)
                _paint(picture, mask, quad, rng)
                words.append(Word(quad.astype(np.float32), ignored=False))
                break
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.2))), np.float32)
    noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0, 8))
    return np.clip(picture + noise, 0, 255).astype(np.uint8), words


def random_text(rng: np.random.Generator) -> str:
    """A word of syllables, in lower, upper or title case, or a number."""
    if rng.random() < 0.15:
        return "".join(rng.choice(list(string.digits + "-.:"), int(rng.integers(1, 6)))).strip("-.:") or "7"
    word = "".join(rng.choice(SYLLABLES.split(), int(rng.integers(1, 6))))
    kind = rng.random()
    return word.upper() if kind < 0.45 else word.title() if kind < 0.75 else word


def draw_word(text: str, font: Path) -> NDArray[np.uint8]:
    """Coverage 0..255 (h, w) of a word, cropped to its ink plus a margin of a twentieth of its height."""
    face = _load(font)
    left, top, right, bottom = (int(edge) for edge in face.getbbox(text))
    canvas = Pillow.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, fill=255, font=face)
    drawn = np.asarray(canvas)
    rows, columns = np.flatnonzero(drawn.max(1)), np.flatnonzero(drawn.max(0))
    if not rows.size:
        return np.zeros((1, 1), np.uint8)
    ink = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(ink, max(1, len(ink) // 20))


def _place(
    mask: tuple[int, ...], picture: tuple[int, ...], rng: np.random.Generator, style: Style
) -> NDArray[np.float64]:
    """Corners (4, 2) of a word at a random position, clockwise from its top left."""
    low, high = np.log(style.height)
    height = float(np.exp(rng.uniform(low, max(low, min(high, np.log(picture[0] / 3))))))
    width = height * mask[1] / mask[0] * float(rng.uniform(0.85, 1.2))
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    angle = float(rng.normal(0, 0.12)) if rng.random() < 0.8 else float(rng.uniform(-0.7, 0.7))
    corners = corners + rng.uniform(-style.tilt, style.tilt, (4, 2)) * height * [1.0, 0.5]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(corners @ turn + rng.uniform(0, 1, 2) * picture[1::-1], np.float64)


def _paint(
    picture: NDArray[np.float32], mask: NDArray[np.uint8], quad: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Draw the word into the picture, in a color with contrast to the background."""
    # Only the word's window, with a margin for the outline: most words cover a small part of a picture.
    left, top = (max(0, int(edge) - MARGIN) for edge in quad.min(0))
    right, bottom = (int(edge) + 1 + MARGIN for edge in quad.max(0))
    image, quad = picture, quad - [left, top]
    picture = image[top:bottom, left:right]
    height, width = mask.shape
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    size = picture.shape[1], picture.shape[0]
    # A small word is shrunk by averaging first: warping alone would lose strokes.
    shrink = float(np.linalg.norm(quad[3] - quad[0])) / height
    if shrink < 1:
        small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        mask = np.asarray(cv2.resize(mask, small, interpolation=cv2.INTER_AREA), np.uint8)
        source = source * np.array([small[0] / width, small[1] / height], np.float32)
    warp = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    cover = np.asarray(cv2.warpPerspective(mask, warp, size), np.float32)[..., None] / 255
    behind = picture[cover[..., 0] > 0].mean(axis=0) if (cover > 0).any() else picture.mean((0, 1))
    color = rng.uniform(0, 255, 3)
    for _ in range(TRIES):
        if abs(float((color - behind).mean())) > 50:
            break
        color = rng.uniform(0, 255, 3)
    else:
        color = np.full(3, 20.0 if behind.mean() > 128 else 235.0)
    if rng.random() < 0.2:  # an outline of the opposite brightness
        rim = np.asarray(cv2.dilate(cover, np.ones((3, 3), np.uint8)))[..., None]
        picture = np.asarray(picture * (1 - rim) + (255 - color) * rim, np.float32)
    cover = cover * float(rng.uniform(0.75, 1.0))
    image[top:bottom, left:right] = picture * (1 - cover) + color * cover


@lru_cache(maxsize=256)
def _load(font: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font), GLYPHS)


def _has_letters(font: Path) -> bool:
    """Whether letters differ: a font without them draws the same box."""
    try:
        shapes = {(mask.shape, mask.tobytes()) for mask in (draw_word(letter, font) for letter in "AbQ7")}
    except OSError:
        return False
    return len(shapes) == 4


def _matplotlib_fonts() -> Path:
    import matplotlib as mpl

    return Path(mpl.get_data_path()) / "fonts" / "ttf"
