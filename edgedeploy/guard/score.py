"""Accuracy of a built model in its own runtime: the task's metric, and agreement with the float model.

The float model runs beside it on the same inputs. Where the device is not here the lowered graph is scored in
ONNX Runtime instead, which computes the same numbers but not with the device's kernels; the score says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.backend import Feeds, OpenOptions
from edgedeploy.core.accuracy import AccuracyBudget
from edgedeploy.core.errors import UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.parity import OutputNoise
from edgedeploy.core.sampling import mean_lower_bound
from edgedeploy.core.spec import Artifact
from edgedeploy.runtime.pool import SessionPool
from edgedeploy.runtime.select import open_artifact
from edgedeploy.task import Task, task_for


@dataclass(frozen=True)
class Scorer:
    """Scores models on one set of inputs.

    Attributes:
        exact: the float model, before it was lowered.
        data: inputs, and their labels where there are any.
        limit: most inputs.
        size: (height, width) of the inputs, None for each image's own.
        reference: the float model's metrics; empty where `data` has no labels.
        why_not: where it has none, why.
        kept: folder for the float model's outputs on `data`; None computes them anew for every score.
    """

    exact: Artifact
    data: Path
    limit: int
    size: tuple[int, int] | None = None
    reference: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""
    kept: Path | None = None

    @property
    def labeled(self) -> bool:
        return bool(self.reference)

    def score(self, model: Artifact, backend: str | None = None) -> dict[str, float]:
        """Metrics of the task where there are labels, and `agreement_scores` in any case."""
        task = task_for(model)
        with _open(model, self.size, backend) as session:
            metrics = dict(task.evaluate(session, self.data, self.limit)) if self.labeled else {}
            with _open(self.exact, self.size) as exact:
                pairs = (
                    (self._exact(number, feed, exact), session(feed))
                    for number, feed in enumerate(self.feeds())
                )
                metrics |= agreement_scores(task, pairs)
        return metrics

    def _exact(self, number: int, feed: Feeds, session: Any) -> dict[str, Any]:
        """The float model's outputs, computed once and kept on disk."""
        if self.kept is None:
            # The runtimes' memory is theirs again at the next run: copied.
            return {key: value.copy() for key, value in session(feed).items()}
        names = [spec.name for spec in self.exact.outputs]
        places = [self.kept / f"{number}-{index}.npy" for index in range(len(names))]
        if not places[-1].exists():
            found = session(feed)
            for name, place in zip(names, places, strict=True):
                np.save(place, found[name])
        return {name: np.load(place) for name, place in zip(names, places, strict=True)}

    def feeds(self) -> Iterator[Feeds]:
        """The inputs, as the float model takes them."""
        from edgedeploy.calibration.collect.data import calibration_feeds

        names = tuple(spec.name for spec in self.exact.inputs)
        preprocess = task_for(self.exact).preprocess
        return calibration_feeds(
            self.data, preprocess, self.limit, inputs=names, specs=self.exact.inputs, size=self.size
        )


def make_scorer(exact: Artifact, data: Path, job: Job, kept: Path | None = None) -> Scorer:
    """A scorer that knows what the float model reaches, where there are labels to tell it."""
    plain = Scorer(exact, data, job.recipe.guard.scored, job.size, kept=kept)
    task = task_for(exact)
    try:
        with _open(exact, job.size) as session:
            return replace(plain, reference=dict(task.evaluate(session, data, plain.limit)))
    except UsageError as error:
        return replace(plain, why_not=str(error))


def agreement_scores(
    task: Task, pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> dict[str, float]:
    """Scores of (exact outputs, outputs) of several inputs; of each input the worst output counts.

    `agreement` (mean over inputs), `agreement_low` (its lower 95 % confidence bound, for two inputs or more),
    `worst` (least of any input), `sqnr` (dB) and `images` (number of inputs).
    """
    agreements: list[float] = []
    noise = OutputNoise()
    for expected, got in pairs:
        agreements.append(task.agreement(expected, got))
        noise.add(expected, got)
    low = mean_lower_bound(agreements)
    return {
        "agreement": math.fsum(agreements) / len(agreements),
        **({} if low is None else {"agreement_low": low}),
        "worst": min(agreements),
        "sqnr": noise.worst_db,
        "images": len(agreements),
    }


def default_budgets(task: Task, labeled: bool) -> tuple[str, ...]:
    """The task's own budget for a lower precision: with labels, or without any."""
    return task.budget if labeled and task.budget else task.budget_without_labels


def misses(
    budgets: tuple[AccuracyBudget, ...], scores: Mapping[str, float], reference: Mapping[str, float]
) -> list[str]:
    """In words, the budgets that the scores do not keep."""
    return [
        f"{budget.shown(scores, reference)} (budget {budget.text})"
        for budget in budgets
        if not budget.kept(scores, reference)
    ]


def _open(
    model: Artifact, size: tuple[int, int] | None, backend: str | None = None
) -> AbstractContextManager[Any]:
    """One session of the size asked for, so that every image is fitted to it; else one for each shape."""
    if size is None:
        return SessionPool(model, backend=backend)
    return open_artifact(model, OpenOptions(shapes=task_for(model).input_shapes(*size)), backend)
