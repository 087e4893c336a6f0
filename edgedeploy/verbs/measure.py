"""`load`, `bench` and `evaluate`: artifacts in the runtime that they run in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact
from edgedeploy.pipeline import Monitor, Silent, Stage

if TYPE_CHECKING:
    from edgedeploy.backend import Session
    from edgedeploy.bench.report import BenchReport
    from edgedeploy.core.progress import Progress

PYTORCH = "pytorch"
Size = tuple[int, int]


@dataclass(frozen=True)
class Scores:
    """Metrics of one artifact.

    Attributes:
        artifact: path of the file, or name of the zoo model.
        precision: the lowest precision of the weighted operators.
        backend: the runtime that was scored; "pytorch" for zoo models.
        metrics: metric of the task -> value.
        caveats: warnings about the artifact on this machine.
    """

    artifact: str
    precision: str
    backend: str
    metrics: dict[str, float]
    caveats: tuple[str, ...] = ()


def load(path: Path | str, *, threads: int = 0) -> Session:
    """Open an artifact for inference: `session({"image": array})` returns the outputs by name.

    Args:
        path: an .onnx or an engine; `FILE.onnx@BACKEND` opens the file in another runtime.
        threads: CPU threads, 0 for the runtime's own choice.

    Use the session as a context manager, or call its `close`. Raises ArtifactError, MissingDependencyError.
    """
    from edgedeploy.backend import OpenOptions
    from edgedeploy.runtime.select import open_artifact, split_backend

    file, backend = split_backend(str(path))
    return open_artifact(Artifact.load(file), OpenOptions(threads=threads), backend)


def bench(
    artifacts: Sequence[Path | str],
    *,
    size: Size | None = None,
    threads: int = 0,
    runs: int | None = None,
    budget: Sequence[str] = (),
    report: Path | str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time artifacts against each other in one interleaved run; the first is the baseline.

    Args:
        artifacts: files; `FILE.onnx@BACKEND` opens the file in another runtime.
        size: (height, width) in pixels for models of dynamic size.
        threads: CPU threads of each model, 0 for the runtime's own choice.
        runs: rounds; None takes 3 seconds for each artifact.
        budget: conditions such as "p99<20ms"; `check()` of the report raises unless they are met.
        report: also write a report: .md, .json or .csv.
        progress: receives (done, total or None).

    Raises the EdgeDeployError family.
    """
    from edgedeploy.bench.artifacts import bench as time_artifacts
    from edgedeploy.bench.report import require_report_name
    from edgedeploy.core.files import check_writable

    if report is not None:  # before the minutes of measuring
        require_report_name(Path(report))
        check_writable(Path(report))
    result = time_artifacts(
        artifacts, threads=threads, runs=runs, size=size, budget=budget, progress=progress
    )
    if report is not None:
        result.write(Path(report))
    return result


def evaluate(
    artifacts: Sequence[Path | str],
    data: Path | str,
    *,
    weights: str | None = None,
    task: str | None = None,
    size: Size | None = None,
    limit: int | None = None,
    threads: int = 0,
    monitor: Monitor[Stage] | None = None,
) -> list[Scores]:
    """Score artifacts by their task's metric on the same data.

    Args:
        artifacts: files; `FILE.onnx@BACKEND` opens the file in another runtime, and the name of a zoo model
            runs it in PyTorch.
        data: images with their truth, laid out as the task wants, or a video.
        weights: of zoo models: bundled weights by name, or a file.
        task: what a file does that does not say, a file of tasks/; `size` is its (height, width) in pixels.
        limit: most images to use.
        threads: CPU threads, 0 for the runtime's own choice.
        monitor: receives the progress and warnings.

    Raises the EdgeDeployError family.
    """
    from edgedeploy.runtime.select import split_backend

    data, monitor = Path(data), monitor or Silent()
    if not data.exists():
        raise UsageError(f"{data} does not exist", "name a folder of images or a video with --data")
    names = [str(name) for name in artifacts]
    models = [_is_zoo_model(name) for name in names]
    if weights is not None and not any(models):
        raise UsageError("--weights is for models of the zoo", "an artifact holds its own")
    if size is not None and task is None:
        raise UsageError("--size is for a file whose task is not known", "name that, too: --task")
    scores = []
    for name, of_zoo in zip(names, models, strict=True):
        title = name if of_zoo else split_backend(name)[0].name
        with monitor.stage(f"{title} on {data.name}") as stage:
            if of_zoo:
                scores.append(_score_zoo_model(name, weights, data, limit, threads, stage.progress))
            else:
                artifact, backend = _described(name, task, size)
                scores.append(_score(artifact, backend, data, limit, threads, stage.progress))
        for caveat in scores[-1].caveats:
            monitor.note(f"{name}: {caveat}")
    return scores


def _is_zoo_model(name: str) -> bool:
    """A model's name is a word; anything else is a file, whose absence the reader of artifacts explains."""
    return not ("@" in name or Path(name).exists() or Path(name).suffix or Path(name).parent != Path())


def _described(name: str, task: str | None, size: Size | None) -> tuple[Artifact, str | None]:
    """The artifact of a file, with the task that the user names, and the backend to open it in."""
    from edgedeploy.runtime.select import split_backend
    from edgedeploy.task import task_spec

    path, backend = split_backend(name)
    artifact = Artifact.load(path)
    if task is not None and task != artifact.task.name:
        artifact = artifact.model_copy(update={"task": task_spec(task, size, {})})
    return artifact, backend


def _score(
    artifact: Artifact,
    backend: str | None,
    data: Path,
    limit: int | None,
    threads: int,
    progress: Progress,
) -> Scores:
    from edgedeploy.core.artifact_warnings import artifact_warnings
    from edgedeploy.runtime.pool import SessionPool
    from edgedeploy.runtime.select import backend_for
    from edgedeploy.task import task_for

    with SessionPool(artifact, threads=threads, backend=backend) as pool:
        metrics = task_for(artifact).evaluate(pool, data, limit, progress)
    used = backend or backend_for(artifact).name
    return Scores(str(artifact.path), artifact.precision, used, metrics, tuple(artifact_warnings(artifact)))


def _score_zoo_model(
    name: str, weights: str | None, data: Path, limit: int | None, threads: int, progress: Progress
) -> Scores:
    from edgedeploy.core.extras import require_export

    require_export(data=True)
    from edgedeploy.models.training.measure import measure_weights

    metrics = measure_weights(name, weights, data, limit, progress, threads=threads)
    return Scores(name, "fp32", PYTORCH, metrics)
