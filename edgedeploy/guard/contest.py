"""A contest: candidates are built, judged and timed in turns; one of them ships.

`choose_precision` judges every precision of the target by accuracy budgets, `choose_backend` the runtimes of
one precision by what the model computes unoptimized.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgedeploy.backend import Feeds
from edgedeploy.bench.budget import METRICS, Budget, parse_budgets
from edgedeploy.bench.measure import Rounds
from edgedeploy.core.accuracy import AccuracyBudget, parse_accuracy
from edgedeploy.core.cache import statistics_root
from edgedeploy.core.details import Details
from edgedeploy.core.errors import OutputError, UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.guard.candidates import Builder, Built, Candidate, built_of, run_shapes
from edgedeploy.guard.choice import choose, decide, first_refusal
from edgedeploy.guard.mixing import find_mixes
from edgedeploy.guard.report import backend_report, precision_report
from edgedeploy.guard.score import Scorer, default_budgets, make_scorer
from edgedeploy.guard.split import split
from edgedeploy.guard.timing import Sessions, estimate, time_candidates
from edgedeploy.runtime.compare import Comparison, compare_sessions
from edgedeploy.task import task_for

REAL_INPUTS = 2
# Runtimes differ by more than precisions do: fewer rounds tell them apart.
BACKEND_ROUNDS = Rounds(seconds=3.0, least=3, most=15)


def choose_precision(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    """Ship the fastest precision and runtime that keep the budgets: a file in `folder`.

    The data is divided: ranges come from one part, scores from the other. Where the device is absent nothing
    is timed, and the target's default ships unless it breaks the budget. `details.guard` has the report.

    Raises BudgetError where no candidate keeps the budgets; UsageError where the model is not float32, or a
    budget needs labels that are absent.
    """
    if artifact.precision != "fp32":
        raise UsageError(
            f"{artifact.model} is {artifact.precision} already: there is nothing to choose",
            "start from the fp32 model, or build it without --precision auto",
        )
    assert job.data is not None  # noqa: S101  `Lower.check` refused it
    with _workplace(folder) as place:
        options, limit = job.recipe.guard, job.recipe.calibration.limit
        parts = split(job.data, place / "data", limit, options.scored, job.labeled)
        job = dataclasses.replace(job, data=parts.calibration)
        scorer = make_scorer(artifact, parts.scored, job, _subfolder(place, "exact"))
        budgets, time_budgets = _budgets(artifact, job, scorer)
        built = _subfolder(place, "built")
        builder = Builder(artifact, job, built, statistics_root(folder), progress, scorer, budgets)
        candidates = builder.every_precision()
        estimate(built_of(candidates), artifact, job)
        candidates = _timed(candidates, job)
        mixing = find_mixes(candidates, builder)
        if mixing.tried:
            candidates = _timed([*candidates, *mixing.worth_timing], job)
        _judge_time(built_of(candidates), time_budgets)
        winner, sentence = decide(candidates, budgets, job.target, mixing.sensitivity)
        report = precision_report(sentence, candidates, mixing, (*budgets, *time_budgets), scorer, parts)
        details = Details(guard=report)
        if winner.not_here:
            details |= Details(considered=backend_report([dataclasses.replace(winner, name=winner.backend)]))
        step = Step(name="guard", options={"kept": winner.name, "budget": list(report.budget)}, hits=1)
        return _keep(winner, folder, details, step)


def choose_backend(artifact: Artifact, job: Job, folder: Path, progress: Progress) -> Artifact:
    """Ship the model in the target's fastest runtime that agrees with the reference: a file in `folder`.

    Where the device of everything that was built is absent, the first candidate ships.
    `details.considered` has an entry for each candidate: backend, status, milliseconds, max_rel, sqnr_db.

    Raises the builders' own errors if nothing is built, ParityError if nothing agrees with the reference.
    """
    shapes, inputs = run_shapes(artifact, job), real_inputs(artifact, job)
    compared: dict[str, Comparison] = {}

    def check(sessions: Sessions) -> dict[str, Exception]:
        compared.update(compare_sessions(artifact, sessions, shapes, inputs))
        return {name: found.error for name, found in compared.items() if found.error is not None}

    with _workplace(folder) as place:
        builder = Builder(artifact, job, place, statistics_root(folder), progress)
        candidates = time_candidates(builder.every_backend(), job, BACKEND_ROUNDS, check)
        built = built_of(candidates)
        if not built:
            raise first_refusal(candidates)
        winner = choose(candidates, built, job.target)
        return _keep(winner, folder, Details(considered=backend_report(candidates, compared)))


def real_inputs(artifact: Artifact, job: Job) -> list[Feeds]:
    """A few inputs of the job's data to compare runtimes on; none where it has no data."""
    return [] if job.data is None else list(Scorer(artifact, job.data, REAL_INPUTS, job.size).feeds())


def _timed(candidates: Sequence[Candidate], job: Job) -> list[Candidate]:
    here = sum(not candidate.not_here for candidate in built_of(candidates))
    return time_candidates(candidates, job, Rounds(job.recipe.guard.seconds * here))


def _budgets(
    artifact: Artifact, job: Job, scorer: Scorer
) -> tuple[tuple[AccuracyBudget, ...], tuple[Budget, ...]]:
    """The budgets of accuracy and of time; UsageError for one that needs labels where there are none."""
    asked = [part.strip() for text in job.recipe.guard.budget for part in text.split(",") if part.strip()]
    of_time = [part for part in asked if part.split("<")[0].split(">")[0].strip() in METRICS]
    of_accuracy = [part for part in asked if part not in of_time]
    accuracy = parse_accuracy(of_accuracy or default_budgets(task_for(artifact), scorer.labeled))
    for budget in accuracy:
        if budget.needs_labels and not scorer.labeled:
            raise UsageError(
                f"budget {budget.text} needs labels: {scorer.why_not}",
                "name labeled images with --labels, or a budget without: --budget 'agreement>=0.98'",
            )
    return accuracy, parse_budgets(of_time)


def _judge_time(candidates: Sequence[Built], budgets: Sequence[Budget]) -> None:
    """Set `late` of candidates that miss a budget of time, or whose time is not known."""
    for candidate in candidates if budgets else ():
        timing = candidate.timing
        if timing is None:
            candidate.late = f"its time is not known here, budget {budgets[0].text}"
        else:
            candidate.late = "; ".join(filter(None, (budget.miss(timing) for budget in budgets)))


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder to build in inside `folder`, so that the winner only has to be renamed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder, prefix=".contest-")
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror or error}", "choose another place with -o"
        ) from error
    with place as name:
        yield Path(name)


def _subfolder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


def _keep(winner: Built, folder: Path, details: Details, *steps: Step) -> Artifact:
    """Move the winner's file into `folder`, with the contest in its metadata."""
    artifact = winner.artifact
    out = folder / artifact.path.name
    changes = {"details": artifact.details | details, "history": (*artifact.history, *steps)}
    return artifact.saved_at(out, **changes)
