"""Frames of a bundle at full resolution: each patch by its network, or the whole frame by a single network.

A restorer is a Session: feeds are a decoded frame and its number, the output is the enlarged frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgedeploy.backend import Feeds, OpenOptions, Outputs, Session
from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.runtime.select import open_artifact
from edgedeploy.stdo.bundle import COPY_AGAIN, Bundle
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.patches import Pixels
from edgedeploy.tasks.super_resolution import SuperResolution

FRAME, INDEX, RESTORED = "frame", "index", "restored"


class Restorer(Session):
    """Enlarges decoded low-resolution frames (H, W, 3) uint8 to (height, width, 3) uint8, RGB.

    Inputs: `frame`, and its number in the video `index` (1,) int64. Output: `restored`, cropped to the
    source's size; it owns its memory.
    """

    def __init__(
        self, bundle: Bundle, *, backend: str | None = None, threads: int = 0, full_frame: bool | None = None
    ) -> None:
        """Open the networks.

        Args:
            backend, threads: as in `open_artifact`.
            full_frame: run whole frames, for a single network only; None: if there is a single network.
        """
        manifest = bundle.manifest
        single = len(bundle.models) == 1
        if full_frame and not single:
            raise UsageError("several networks cannot take a frame at once", "leave full_frame out")
        low, high = (manifest.low_height, manifest.low_width, 3), (manifest.height, manifest.width, 3)
        frame = TensorSpec(name=FRAME, dtype="uint8", shape=low)
        index = TensorSpec(name=INDEX, dtype="int64", shape=(1,))
        super().__init__((frame, index), (TensorSpec(name=RESTORED, dtype="uint8", shape=high),))
        self.bundle, self.full_frame = bundle, single if full_frame is None else full_frame
        self._networks = Networks(
            bundle.models, manifest.grid, manifest.scale, self.full_frame, backend=backend, threads=threads
        )

    def _run(self, feeds: Feeds) -> Outputs:
        index = int(feeds[INDEX][0])
        manifest = self.bundle.manifest
        if not 0 <= index < manifest.frames:
            raise ArtifactError(f"frame {index} is beyond the {manifest.frames} of the bundle", COPY_AGAIN)
        restored = self._networks.enlarge(feeds[FRAME], self.bundle.chunks[index])
        return {RESTORED: restored[: manifest.height, : manifest.width]}

    def close(self) -> None:
        self._networks.close()


class Networks:
    """The open networks of the chunks, for whole frames or for patches of `grid.seen`.

    Patches run one at a time: one patch occupies all CPU cores, and a batch is not faster (docs/stdo.md).
    """

    def __init__(
        self,
        models: Sequence[Artifact],
        grid: HaloGrid,
        scale: int,
        full_frame: bool,
        *,
        backend: str | None = None,
        threads: int = 0,
    ) -> None:
        self.grid, self.scale, self.full_frame = grid, scale, full_frame
        size = (
            (grid.grid.height + 2 * grid.halo, grid.grid.width + 2 * grid.halo) if full_frame else grid.seen
        )
        self._tasks = [SuperResolution(model) for model in models]
        self._sessions: list[Session] = []
        try:
            for model in models:
                options = OpenOptions(shapes={model.inputs[0].name: (1, 3, *size)}, threads=threads)
                self._sessions.append(open_artifact(model, options, backend))
        except BaseException:
            self.close()
            raise

    def enlarge(self, frame: Pixels, chunks: NDArray[np.uint8]) -> Pixels:
        """(scale*H, scale*W, 3) from a frame (H, W, 3) and the chunks of its patches (P,)."""
        s, halo, grid = self.scale, self.scale * self.grid.halo, self.grid.grid
        if self.full_frame:
            pixels = self._apply(0, self.grid.surrounded(frame))
            return np.array(pixels[halo : halo + s * grid.height, halo : halo + s * grid.width])
        result = np.empty((s * grid.height, s * grid.width, 3), np.uint8)
        extended = self.grid.extended(frame)
        # Patches of one network run in a row: its weights stay in the cache.
        for index in np.argsort(chunks, kind="stable"):
            patch = self._apply(int(chunks[index]), self.grid.cut(extended, int(index)))
            self.grid.paste(result, int(index), patch, s)
        return result

    def close(self) -> None:
        while self._sessions:
            self._sessions.pop().close()

    def _apply(self, chunk: int, pixels: Pixels) -> Pixels:
        task, session = self._tasks[chunk], self._sessions[chunk]
        result = task.result(session(task.feed(pixels)))
        height, width = (self.scale * n for n in pixels.shape[:2])
        if result.shape != (height, width, 3):
            raise ArtifactError(
                f"{task.artifact.path} makes {result.shape[1]}x{result.shape[0]} pixels of "
                f"{pixels.shape[1]}x{pixels.shape[0]}",
                "encode the video again",
            )
        return result
