"""Calibration inputs: a source that can be read several times, its length and its digest.

The digest of files is the key of statistics kept between runs; a Python iterable has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx

from edgedeploy.backend import Feeds
from edgedeploy.calibration.collect.data import DataReport, Source, calibration_feeds
from edgedeploy.calibration.collect.sources import source_length
from edgedeploy.calibration.collect.store import StatisticsStore
from edgedeploy.core.cache import data_digest
from edgedeploy.core.files import sha256_text
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.runtime.feeds import random_feeds, representative_shapes
from edgedeploy.task import Image, task_for


@dataclass(frozen=True)
class RandomFeeds:
    """Inputs of noise, for trying a deployment without data: their ranges say nothing about accuracy.

    Attributes:
        artifact: whose inputs they fit.
        count: how many.
        size: (height, width) for inputs of dynamic size.
    """

    artifact: Artifact
    count: int
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Feeds]:
        shapes = representative_shapes(self.artifact, self._given())
        return (random_feeds(self.artifact, shapes, seed) for seed in range(self.count))

    def _given(self) -> dict[str, tuple[int, ...]]:
        return task_for(self.artifact).input_shapes(*self.size) if self.size else {}


@dataclass(frozen=True)
class CalibrationData:
    """A source with all that is done to its images; calling it starts a pass over the feeds.

    Attributes:
        source: see `calibration_feeds`; an iterable must start anew every time it is iterated over.
        preprocess: makes the feeds of an image.
        limit: most inputs to use.
        inputs, specs: names and specifications of the model's inputs.
        size: (height, width) for inputs of dynamic size.
        keep: folder below which statistics are kept; None keeps none, as for a source that is no file.
        preprocessing: tells `preprocess` from any other, for the key under which they are kept.
        report: of the last pass, or of the pass that kept statistics are from.
    """

    source: Source
    preprocess: Callable[[Image], Feeds]
    limit: int = 64
    inputs: tuple[str, ...] = ()
    specs: tuple[TensorSpec, ...] = ()
    size: tuple[int, int] | None = None
    keep: Path | None = None
    preprocessing: str = ""
    report: DataReport = field(default_factory=DataReport)

    @staticmethod
    def of(
        artifact: Artifact,
        source: Source,
        limit: int = 64,
        *,
        size: tuple[int, int] | None = None,
        keep: Path | None = None,
    ) -> CalibrationData:
        """Data for an artifact, preprocessed by its own task."""
        document = {
            "task": artifact.task.model_dump(mode="json"),
            "inputs": [entry.model_dump(mode="json") for entry in artifact.inputs],
        }
        return CalibrationData(
            source,
            task_for(artifact).preprocess,
            limit,
            tuple(entry.name for entry in artifact.inputs),
            artifact.inputs,
            size,
            keep,
            json.dumps(document, sort_keys=True),
        )

    def __call__(self) -> Iterable[Feeds]:
        feeds = calibration_feeds(
            self.source,
            self.preprocess,
            self.limit,
            inputs=self.inputs,
            specs=self.specs,
            size=self.size,
            report=self.report,
        )
        length = source_length(self.source, self.limit)
        return feeds if length is None else SizedFeeds(feeds, length)

    @property
    def digest(self) -> str | None:
        """Digest of the feeds in their order; None for a Python iterable."""
        if isinstance(self.source, RandomFeeds):
            content = f"random {self.source.count}"
        elif isinstance(self.source, (str, Path)):
            content = data_digest(Path(self.source))
        else:
            return None
        return sha256_text(content, self.preprocessing, str(self.limit), str(self.size))

    def store(self, model: onnx.ModelProto) -> StatisticsStore | None:
        """Where statistics of a model over these inputs are kept, if they are."""
        if self.keep is None or (digest := self.digest) is None:
            return None
        return StatisticsStore(self.keep, model, digest)

    def report_json(self) -> str:
        """The report of the last pass, to be kept with statistics."""
        return json.dumps(asdict(self.report))

    def restore_report(self, document: str) -> None:
        """Set the report from that of an earlier pass, as of `report_json`."""
        for name, value in json.loads(document).items():
            setattr(self.report, name, value)


class SizedFeeds:
    """Feeds of one pass, of which there are `length`, or fewer where some cannot be used."""

    def __init__(self, feeds: Iterable[Feeds], length: int) -> None:
        self._feeds, self._length = feeds, length

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self._feeds)

    def __len__(self) -> int:
        return self._length
