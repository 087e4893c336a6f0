"""From PyTorch to an ONNX file that describes itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedeploy.core.cache import data_digest
from edgedeploy.core.details import Details
from edgedeploy.core.files import sha256_file
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.steps.base import PipelineStep

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from edgedeploy.models.registry import ModelInfo

REAL_IMAGES = 2


class Capture(PipelineStep):
    """The network as an ONNX file, compared with PyTorch."""

    name = "capture"
    title = "capture as ONNX, compare with PyTorch"

    def wanted(self) -> bool:
        return Path(self.job.source).suffix.lower() != ".onnx"

    def decides(self) -> Any:
        from edgedeploy.export.capture.sources import is_file_source

        job, options = self.job, self.job.recipe.capture.model_dump()
        if is_file_source(job.source):
            return {"sha256": sha256_file(Path(job.source)), "capture": options}
        if ":" in job.source:
            return None
        weights = job.weights
        if weights and Path(weights).is_file():
            weights = sha256_file(Path(weights))
        return {
            "model": job.source,
            "weights": weights,
            "options": dict(job.model_options),
            "capture": options,
            "images": data_digest(job.data) if job.data else None,
        }

    def run(self, folder: Path, progress: Progress) -> Artifact:  # noqa: ARG002
        from edgedeploy.export.capture.capture import capture

        job, options = self.job, self.job.recipe.capture
        if job.source.endswith(".pt2"):
            return capture(job.source, options, folder / f"{Path(job.source).stem}.onnx")
        if ":" in job.source:
            out = folder / f"{job.source.partition(':')[2]}.onnx"
            return capture(job.source, options, out, builder_options=job.model_options)
        network, info, weights = self._zoo_network()
        out, images = folder / f"{job.source}.onnx", self._images(info)
        captured = capture(network, options, out, info=info, name=job.source, images=images)
        return captured.saved_at(details=captured.details | weights)

    @staticmethod
    def notes(made: Artifact) -> list[str]:
        notes = []
        if made.details.weights == "random":
            names = _bundled(made.model)
            others = f"--weights {' or '.join(names)}" if names else "name others with --weights"
            notes.append(f"random weights: good for timing, not for results ({others})")
        step = next((step for step in made.history if step.name == "capture"), None)
        if step is not None and step.options.get("why"):
            notes.append(f"exported by {step.options['exporter']}: {step.options['why']}")
        return notes

    def _zoo_network(self) -> tuple[nn.Module, ModelInfo, Details]:
        """(network of the zoo with its weights, its description, what the artifact records of them)."""
        from edgedeploy.models import MODELS
        from edgedeploy.models.checkpoint import load_checkpoint

        job = self.job
        info = MODELS.get(job.source).variant(**job.model_options)
        name = job.weights or self._default_weights(info)
        if name == "random":
            return self._random(info), info, Details(weights="random")
        loaded = load_checkpoint(job.source, name, **job.model_options)
        weights = Details(weights=name, weights_sha256=loaded.sha256)
        return loaded.model, loaded.info, weights

    def _default_weights(self, info: ModelInfo) -> str:
        """The bundled weights, or "random" where there are none.

        A network of the user's own builder options, such as another number of classes, has none but those
        that its family declares for every variant.
        """
        if self.job.model_options:
            return info.default_weights or "random"
        return next(iter(_bundled(info.name)), "random")

    def _random(self, info: ModelInfo) -> nn.Module:
        """The network with the weights of seed 0, so that the same command gives the same file."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return info.build(**self.job.model_options).eval()

    def _images(self, info: ModelInfo) -> list[NDArray[np.float32]]:
        """A few real inputs, where the job has data, on which the export must agree with PyTorch too."""
        if self.job.data is None:
            return []
        from edgedeploy.calibration.collect.data import calibration_feeds
        from edgedeploy.task import task_for

        batch, channels, *default = info.input_shape
        options = self.job.recipe.capture
        shape = (batch, channels, options.height or default[0], options.width or default[1])
        spec = TensorSpec(name="image", dtype="float32", shape=shape, layout="NCHW")
        task = task_for(
            Artifact(path=Path(), kind="onnx", model="", inputs=(spec,), outputs=(), task=info.task)
        )
        feeds = calibration_feeds(self.job.data, task.preprocess, REAL_IMAGES, inputs=(spec.name,))
        return [np.asarray(feed[spec.name], dtype=np.float32) for feed in feeds]


def _bundled(model: str) -> list[str]:
    """Weights that come with the package, of a model of the zoo; none of others."""
    from edgedeploy.models import MODELS
    from edgedeploy.models.checkpoint import bundled_weights

    return bundled_weights(model) if model in MODELS.names() else []
