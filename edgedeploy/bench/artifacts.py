"""Benchmark files: open each artifact, make feeds for its task, and time all artifacts in turns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgedeploy.backend import BACKENDS, Feeds, OpenOptions, Session, concrete_shapes
from edgedeploy.bench.budget import parse_budgets
from edgedeploy.bench.machine import describe_machine
from edgedeploy.bench.measure import Rounds, time_interleaved
from edgedeploy.bench.memory import PeakMemory
from edgedeploy.bench.report import BenchReport
from edgedeploy.core.artifact_warnings import artifact_warnings
from edgedeploy.core.errors import MissingDependencyError, UsageError
from edgedeploy.core.progress import Progress
from edgedeploy.core.spec import Artifact
from edgedeploy.runtime.feeds import random_feeds
from edgedeploy.runtime.select import backend_for, open_artifact, split_backend

SECONDS_EACH = 3.0


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An artifact by the user's name, with time and memory of opening it."""

    name: str
    artifact: Artifact
    backend: str
    load_ms: float = 0.0
    memory_mb: float | None = None


def bench(
    paths: Sequence[Path | str],
    *,
    threads: int = 0,
    runs: int | None = None,
    seconds: float | None = None,
    warmup: int = 3,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    budget: Iterable[str] = (),
    progress: Progress | None = None,
) -> BenchReport:
    """Time artifacts against each other in one interleaved run; the first is the baseline.

    Args:
        paths: files; `model.onnx@onnxruntime` opens a file with a backend other than its own.
        threads: CPU threads of each model; 0: the runtime's choice. Models take turns and do not compete.
        runs: number of rounds; None: rounds for `seconds`.
        seconds: duration of all rounds together; None: 3 per model.
        warmup: untimed rounds before.
        size: height and width for models of dynamic size.
        seed: of the random inputs and of the order within a round.
        budget: conditions such as "p99<20ms"; `check()` of the report enforces them.
        progress: called with (done, total) rounds.

    Raises UsageError for invalid sizes or budgets, ArtifactError for invalid files, DeviceError.
    """
    if not paths:
        raise UsageError("there is nothing to bench", "name at least one artifact")
    budgets = parse_budgets(budget)
    entries = _entries(paths)
    machine = describe_machine()
    sessions: dict[str, Session] = {}
    feeds: dict[str, Feeds] = {}
    with ExitStack() as stack:
        for index, entry in enumerate(entries):
            shapes = run_shapes(entry.artifact, size)
            feeds[entry.name] = random_feeds(entry.artifact, shapes, seed)
            backend = BACKENDS.get(entry.backend)
            if reason := backend.why_not():
                raise MissingDependencyError(f"backend {entry.backend}: {reason}", backend.install_hint())
            backend.version()  # imports the SDK before the measurement
            start = time.perf_counter()
            with PeakMemory() as memory:
                options = OpenOptions(shapes=shapes, threads=threads)
                session = stack.enter_context(open_artifact(entry.artifact, options, entry.backend))
                load_ms = (time.perf_counter() - start) * 1e3
                session(feeds[entry.name])
            sessions[entry.name] = session
            entries[index] = dataclasses.replace(entry, load_ms=load_ms, memory_mb=memory.rise_mb)
        seconds = SECONDS_EACH * len(entries) if seconds is None else seconds
        rounds = Rounds.exactly(runs) if runs else Rounds(seconds)
        results = time_interleaved(sessions, feeds, rounds, warmup=warmup, seed=seed, progress=progress)
    settings = {
        "inputs": "; ".join(dict.fromkeys(_shapes_text(feeds[entry.name]) for entry in entries)),
        "threads": threads or "runtime's choice",
        "rounds": results[0].runs,
        "warm-up rounds": warmup,
        "seed": seed,
    }
    complete = (
        dataclasses.replace(
            result,
            precision=entry.artifact.precision,
            backend=entry.backend,
            load_ms=entry.load_ms,
            memory_mb=entry.memory_mb,
            note="; ".join(filter(None, [*artifact_warnings(entry.artifact), result.note])),
        )
        for result, entry in zip(results, entries, strict=True)
    )
    return BenchReport(tuple(complete), machine, settings, budgets)


def run_shapes(artifact: Artifact, size: tuple[int, int] | None) -> dict[str, tuple[int, ...]]:
    """Concrete input shapes for images of `size` (height, width); raises UsageError for a wrong size."""
    from edgedeploy.task import task_for

    return concrete_shapes(artifact, task_for(artifact).input_shapes(*size) if size else {})


def _entries(paths: Sequence[Path | str]) -> list[_Entry]:
    entries: list[_Entry] = []
    for path in paths:
        file, chosen = split_backend(str(path))
        artifact = Artifact.load(file)
        name = f"{artifact.path.name}@{chosen}" if chosen else artifact.path.name
        taken = sum(entry.name.split(" #")[0] == name for entry in entries)
        unique = f"{name} #{taken + 1}" if taken else name
        entries.append(_Entry(unique, artifact, backend_for(artifact, chosen).name))
    return entries


def _shapes_text(feeds: Feeds) -> str:
    return ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in feeds.items())
