"""manifest.json of an STDO bundle: its files and their quality.

A manifest is untrusted input, so everything in it is bounded before anything is read or allocated: names
cannot leave the folder, sizes and counts have limits, unknown fields and versions are refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.files import write_text
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.patches import PatchGrid

MANIFEST = "manifest.json"
VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_MODEL_BYTES = 256 << 20
MAX_VIDEO_BYTES = 64 << 30
MAX_PATCHES = 1 << 27  # an hour of 1080p in the paper's grid has 21 million
BEST_DB = 100.0  # stands for an infinite PSNR, which JSON does not have

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.[A-Za-z0-9]{1,8})?$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=2, le=16384)]
Decibel = Annotated[float, Field(ge=-10, le=BEST_DB, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StoredFile(_Frozen):
    """A file of the bundle: name without folder, size, hex digest."""

    file: FileName
    bytes: Annotated[int, Field(ge=1, le=MAX_VIDEO_BYTES)]
    sha256: Digest


class StoredModel(StoredFile):
    """A model of the bundle: the number of patches that it restores, and its PSNR in dB over them."""

    bytes: Annotated[int, Field(ge=1, le=MAX_MODEL_BYTES)]
    patches: Annotated[int, Field(ge=0, le=MAX_PATCHES)]
    psnr: Decibel | None


class Quality(_Frozen):
    """PSNR in dB against the source: RGB, 8 bit, mean squared error over all pixels of all frames.

    Attributes:
        bicubic: of bicubic interpolation of the low-resolution video as the client decodes it.
        general: of the general model, from which the others were trained; None if it is the result.
        result: of the video that the client restores.
    """

    bicubic: Decibel
    general: Decibel | None
    result: Decibel


class Manifest(_Frozen):
    """The contents of a bundle.

    Attributes:
        network: name of the models' network in the zoo, for people.
        width, height: of the source's frames; the enlarged video is cropped to them.
        patch_height, patch_width, halo: in pixels of low resolution; `halo` also surrounds a whole frame.
        precision: of the stored weights.
        video: the low-resolution video.
        audio: why the video has no sound, or "".
        models: one per chunk, the hardest first; or a single one.
        chunks: the chunk map, see `write_chunks`; None for a single model.
        source_bytes: size of the encoded file.
    """

    version: Literal[1]
    network: Annotated[str, Field(max_length=100)]
    scale: Annotated[int, Field(ge=2, le=4)]
    width: Side
    height: Side
    low_width: Side
    low_height: Side
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    frames: Annotated[int, Field(ge=1, le=1 << 24)]
    patch_height: Side
    patch_width: Side
    halo: Annotated[int, Field(ge=0, le=64)]
    precision: Literal["fp32", "fp16", "int8"]
    video: StoredFile
    audio: Annotated[str, Field(max_length=500)] = ""
    models: Annotated[tuple[StoredModel, ...], Field(min_length=1, max_length=64, strict=False)]
    chunks: StoredFile | None = None
    source_bytes: Annotated[int, Field(ge=0)]
    psnr: Quality

    @property
    def grid(self) -> HaloGrid:
        """The grid of a low-resolution frame."""
        grid = PatchGrid(self.low_height, self.low_width, self.patch_height, self.patch_width)
        return HaloGrid(grid, self.halo)

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file beside the manifest."""
        return (self.video, *self.models, *([self.chunks] if self.chunks else []))

    @property
    def total_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(stored.bytes for stored in self.files)

    @model_validator(mode="after")
    def _fits(self) -> Manifest:
        """Raise ValueError for fields that contradict each other."""
        low, full = (self.low_height, self.low_width), (self.height, self.width)
        for small, large in zip(low, full, strict=True):
            if not large <= small * self.scale < large + 4 * self.scale:
                raise ValueError(f"{small} enlarged by {self.scale} does not cover {large}")
        if self.patch_height > self.low_height or self.patch_width > self.low_width:
            raise ValueError("a patch is larger than the frame")
        if self.frames * self.grid.grid.count > MAX_PATCHES:
            raise ValueError(f"more than {MAX_PATCHES} patches")
        if (len(self.models) > 1) != (self.chunks is not None):
            raise ValueError("several models need a chunk map, a single one has none")
        names = [stored.file.lower() for stored in self.files]
        if len(set(names)) != len(names) or MANIFEST in names:
            raise ValueError("two files have one name")
        if any(not model.file.endswith(".onnx") for model in self.models):
            raise ValueError("models are .onnx files")
        return self


def decibel(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error of pixels in 0..255, at most BEST_DB, rounded to four digits."""
    if mean_squared_error <= 0:
        return BEST_DB
    return round(min(BEST_DB, 10 * math.log10(255.0**2 / mean_squared_error)), 4)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json; raises OutputError."""
    write_text(folder / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of a bundle; raises ArtifactError for an invalid one."""
    path = folder / MANIFEST
    hint = "make a bundle with: edgedeploy stdo encode VIDEO -o FOLDER"
    if not path.is_file() or path.is_symlink():
        raise ArtifactError(f"{folder} is not a bundle: it has no {MANIFEST}", hint)
    with path.open("rb") as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes", hint)
    try:
        document: Any = json.loads(data)
        version = document.get("version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > VERSION:
            raise ArtifactError(
                f"{path} is of version {version}, this edgedeploy reads {VERSION}", "update edgedeploy"
            )
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(f"{path} is damaged: {place}: {first['msg']}", "copy the bundle again") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", "copy the bundle again") from None
