"""Graph passes: fold norms and constants, each pass proved as it runs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.cache import data_digest
from edgedeploy.core.errors import UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.steps.base import PipelineStep

if TYPE_CHECKING:
    from edgedeploy.backend import Feeds

MOST_BYTES = 1 << 30  # of one feed


class Optimize(PipelineStep):
    """The model after the graph passes; what they did lies beside it, see `export/report.py`."""

    name = "optimize"
    title = "fold and clean the graph"

    def wanted(self) -> bool:
        """A graph that is lowered already keeps its Q/DQ and casts just where they are."""
        return self.artifact.precision == "fp32"

    def decides(self) -> Any:
        options = self.job.recipe.optimize
        real = options.real_inputs and self.job.data is not None
        return options.model_dump() | ({"data": data_digest(self.job.data)} if real and self.job.data else {})

    def run(self, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG002
        from edgedeploy.export.optimize import optimize_artifact

        out = folder / self.artifact.path.name
        return optimize_artifact(
            self.artifact, self.job.recipe.optimize, out, real_inputs(self.artifact, self.job)
        )

    @staticmethod
    def notes(made: Artifact) -> list[str]:
        return [*made.details.surgery.problems]


def real_inputs(artifact: Artifact, job: Job) -> list[Feeds]:
    """Inputs from the job's data on which passes are proved besides random ones."""
    limit = job.recipe.optimize.real_inputs
    if job.data is None or not limit:
        return []
    from edgedeploy.calibration.collect.arrays import array_files
    from edgedeploy.calibration.collect.data import calibration_feeds
    from edgedeploy.task import task_for

    files = array_files(job.data)[:limit] if job.data.is_dir() else [job.data]
    whole = [_whole_feed(artifact, file) for file in files]
    if whole and all(feed is not None for feed in whole):
        return [feed for feed in whole if feed is not None]
    specs, task = artifact.inputs, task_for(artifact)
    names = tuple(spec.name for spec in specs)
    return list(calibration_feeds(job.data, task.preprocess, limit, inputs=names, specs=specs))


def _whole_feed(artifact: Artifact, path: Path) -> Feeds | None:
    """The arrays of an .npz as one feed, where each has its input's shape, of any batch size; else None."""
    import numpy as np

    from edgedeploy.backend import check_feed

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                return None
        with np.load(path, allow_pickle=False) as arrays:
            feed = {name: arrays[name] for name in arrays.files}
        for spec in artifact.inputs:
            check_feed(spec, feed)
    except (UsageError, ValueError, KeyError, OSError, zipfile.BadZipFile):  # its rows may be feeds
        return None
    return feed if set(feed) == {spec.name for spec in artifact.inputs} else None
