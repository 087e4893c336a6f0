"""The networks of a bundle: batches of patches, training, and export by the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.cache import Cache
from edgedeploy.core.details import Details
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.encode.clip import Clip
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.pipeline import Monitor, Stage, deliver, run
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.patches import Pixels


@dataclass(frozen=True)
class Patches:
    """Patches of a clip: `members` counts from 0 through all frames, `grid` is that of low resolution."""

    clip: Clip
    grid: HaloGrid
    members: NDArray[np.int64]
    batch: int

    def draw(self, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        """A random batch: low resolution with halo (N, h, w, 3), high resolution without (N, H, W, 3)."""
        large = HaloGrid(self.grid.grid.enlarged(self.clip.scale), 0)
        low, high = [], []
        for member in generator.choice(self.members, self.batch):
            frame, index = divmod(int(member), self.grid.grid.count)
            low.append(self.grid.gather(self.clip.low[frame], index))
            high.append(large.gather(self.clip.high[frame], index))
        return np.stack(low), np.stack(high)


def train(
    patches: Patches,
    options: EncodeOptions,
    out: Path,
    *,
    number: int,
    start: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Overfit one network and write its weights to `out`, unless that exists.

    `number` seeds its batches: 0 for the general network, 1 and on for chunks.
    """
    from edgedeploy.models.training.overfit import overfit_file

    if out.is_file():
        return
    overfit_file(
        options.model,
        patches.draw,
        out,
        steps=options.steps,
        crop=patches.clip.scale * patches.grid.halo,
        seed=options.seed * 1000 + number,
        start=start,
        progress=progress,
    )


def export(
    weights: Path, name: str, options: EncodeOptions, clip: Clip, out: Path, monitor: Monitor[Stage]
) -> Artifact:
    """Capture weights as an optimized ONNX file; INT8 is calibrated on the clip.

    Height and width are dynamic: one file runs patches and whole frames.
    """
    int8 = options.precision == "int8"
    recipe = Recipe().changed({"capture.dynamic": True, "capture.height": 48, "capture.width": 56})
    if int8:
        recipe = recipe.changed({"precision": "int8", "calibration.limit": 32})
    data = clip.video if int8 else None
    job = Job(options.model, recipe, load_target("cpu"), data, str(weights), clip.low.shape[1:3])
    made = deliver(run(job, monitor, Cache(), "lower" if int8 else "optimize"), out)
    # The path of the weights is private.
    return made.saved_at(model=name, details=made.details | Details(weights="overfitted to one video"))
