"""An STDO bundle on disk: a folder that a client checks before it uses anything in it.

It holds manifest.json, the low-resolution video, the models, and for several models the chunk map: one byte
per patch and frame, as the difference to the frame before, compressed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.files import sha256_file, write_bytes
from edgedeploy.core.onnx_header import external_files
from edgedeploy.core.spec import Artifact, sidecar_path
from edgedeploy.stdo.manifest import MANIFEST, Manifest, StoredFile, read_manifest
from edgedeploy.tasks.super_resolution import SuperResolution

COPY_AGAIN = "copy the bundle again, all its files together"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files match its manifest.

    Attributes:
        chunks: (frames, patches) uint8, index of each patch's model.
        models: one artifact per chunk.
    """

    folder: Path
    manifest: Manifest
    chunks: NDArray[np.uint8]
    models: tuple[Artifact, ...]

    @property
    def video(self) -> Path:
        return self.folder / self.manifest.video.file

    @property
    def total_bytes(self) -> int:
        """Size of the whole bundle, manifest included."""
        return self.manifest.total_bytes + (self.folder / MANIFEST).stat().st_size


def open_bundle(folder: Path) -> Bundle:
    """Check and read a bundle; raises ArtifactError for a missing, changed or unexpected file."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    for stored in manifest.files:
        check_file(folder, stored)
    frames, patches = manifest.frames, manifest.grid.grid.count
    if manifest.chunks is None:
        chunks = np.broadcast_to(np.uint8(0), (frames, patches))
    else:
        data = (folder / manifest.chunks.file).read_bytes()
        chunks = unpack_chunks(data, frames, patches, len(manifest.models))
    models = tuple(_model(folder / stored.file, manifest) for stored in manifest.models)
    return Bundle(folder, manifest, chunks, models)


def check_file(folder: Path, stored: StoredFile) -> None:
    """Raise ArtifactError unless the folder holds a regular file of this size and digest."""
    path = folder / stored.file
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{folder} lacks {stored.file}", COPY_AGAIN)
    size = path.stat().st_size
    if size != stored.bytes:
        raise ArtifactError(f"{path} has {size} bytes, its manifest says {stored.bytes}", COPY_AGAIN)
    if sha256_file(path) != stored.sha256:
        raise ArtifactError(f"{path} is not the file that its manifest describes", COPY_AGAIN)


def stored_file(path: Path) -> StoredFile:
    """The manifest's entry of a file."""
    return StoredFile(file=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def write_chunks(path: Path, chunks: NDArray[np.uint8]) -> None:
    """Write (frames, patches) chunk indices as differences between frames, which compress best."""
    # Unsigned bytes wrap around, and so do the sums in `unpack_chunks`.
    steps = np.diff(chunks, axis=0, prepend=np.zeros((1, chunks.shape[1]), np.uint8))
    write_bytes(path, zlib.compress(steps.astype(np.uint8).tobytes(), 9))


def unpack_chunks(data: bytes, frames: int, patches: int, models: int) -> NDArray[np.uint8]:
    """The inverse of `write_chunks`; inflates at most frames x patches bytes. Raises ArtifactError."""
    wanted = frames * patches
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, wanted + 1)
    except zlib.error as error:
        raise ArtifactError(f"the chunk map is damaged: {error}", COPY_AGAIN) from None
    if len(raw) != wanted or not stream.eof:
        raise ArtifactError(f"the chunk map does not hold {frames} x {patches} entries", COPY_AGAIN)
    steps = np.frombuffer(raw, np.uint8).reshape(frames, patches)
    chunks = np.cumsum(steps, axis=0, dtype=np.uint8)
    if int(chunks.max()) >= models:
        raise ArtifactError(f"the chunk map names model {chunks.max()} of {models}", COPY_AGAIN)
    return chunks


def _model(path: Path, manifest: Manifest) -> Artifact:
    # A sidecar would make it an engine, which is code; external weights could be any file.
    if sidecar_path(path).exists() or external_files(path):
        raise ArtifactError(f"{path} is not one self-contained .onnx file", COPY_AGAIN)
    artifact = Artifact.load(path)
    if artifact.kind != "onnx" or len(artifact.inputs) != 1 or len(artifact.outputs) != 1:
        raise ArtifactError(f"{path} is not a network from one image to one", COPY_AGAIN)
    task = SuperResolution(artifact)
    if not task.rgb or task.scale != manifest.scale:
        raise ArtifactError(f"{path} does not enlarge RGB by {manifest.scale}", COPY_AGAIN)
    return artifact
