"""Which backend: when building, the fastest that computes the right thing; when opening, the artifact's."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgedeploy.backend import BACKENDS, Backend, BuildOptions, Feeds, OpenOptions, Session, Shapes
from edgedeploy.core.details import Details
from edgedeploy.core.errors import (
    ArtifactError,
    BuildError,
    DeviceError,
    EdgeDeployError,
    MissingDependencyError,
    OutputError,
    UnsupportedOpError,
)
from edgedeploy.core.files import replacing
from edgedeploy.core.relabel import relabeled
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target
from edgedeploy.runtime.contest import Verdicts, check, interleaved_ms
from edgedeploy.runtime.feeds import random_feeds, representative_shapes

T = TypeVar("T")
PLAIN_ONNX = ("openvino", "onnxruntime")
OTHER_FORM = "signs in INT8"  # what `forms` are so far


def open_artifact(
    artifact: Artifact, options: OpenOptions | None = None, backend: str | None = None
) -> Session:
    """Open with `backend`, else with the artifact's own, else with the first of PLAIN_ONNX that is installed.

    Raises ArtifactError for an engine opened with another backend than it was built for.
    """
    if artifact.kind == "engine" and backend not in (None, artifact.backend):
        raise ArtifactError(
            f"{artifact.path} is an engine of {artifact.backend}, not of {backend}",
            "open the .onnx that it was built from instead",
        )
    return backend_for(artifact, backend).open(artifact, options)


def backend_for(artifact: Artifact, backend: str | None = None) -> Backend:
    """The backend that `open_artifact` takes."""
    name = backend or artifact.backend
    if name:
        return BACKENDS.get(name)
    for candidate in PLAIN_ONNX:
        if not BACKENDS.get(candidate).why_not():
            return BACKENDS.get(candidate)
    raise MissingDependencyError("no runtime for .onnx files is installed", 'pip install "edgedeploy[cpu]"')


def build_fastest(
    artifact: Artifact,
    target: Target,
    options: BuildOptions | None,
    out: Path,
    shapes: Shapes | None = None,
    forms: Mapping[str, Artifact] | None = None,
    inputs: Sequence[Feeds] = (),
) -> Artifact:
    """Build with every installed backend of the target and keep the fastest that agrees with the reference.

    They are compared on `inputs`, real ones, or on random ones where none has the right shapes. `forms` has
    for some backends another form of the same model, which takes part as well; the reference is the artifact
    itself.

    Where nothing that was built can run here (an engine for a GPU elsewhere), the first that builds is kept.
    `details.considered` of the result tells of each: median milliseconds, max_rel, sqnr_db, verdict.

    Raises MissingDependencyError if no backend of the target is installed, the builders' own BuildError if
    none builds, ParityError if none agrees with the reference.
    """
    options = options or BuildOptions()
    shapes = representative_shapes(artifact, {**options.opt_shapes, **(shapes or {})})
    options = dataclasses.replace(options, opt_shapes=options.opt_shapes or shapes)
    with _workplace(out) as folder:
        candidates = _candidates(artifact, target, forms or {})
        built, verdicts = _build_all(candidates, target, options, out, Path(folder))
        winner = _measure(artifact, built, verdicts, shapes, inputs)
        return _move(winner, out, Details.model_validate({"considered": [*verdicts.values()]}))


def _candidates(
    artifact: Artifact, target: Target, forms: Mapping[str, Artifact]
) -> dict[str, tuple[str, Artifact]]:
    """Name in the contest -> backend and what it builds from; other forms first: kept where none can run."""
    others = {f"{name}, {OTHER_FORM}": (name, forms[name]) for name in target.backends if name in forms}
    return {**others, **{name: (name, artifact) for name in target.backends}}


def _build_all(
    candidates: Mapping[str, tuple[str, Artifact]],
    target: Target,
    options: BuildOptions,
    out: Path,
    folder: Path,
) -> tuple[dict[str, Artifact], Verdicts]:
    built: dict[str, Artifact] = {}
    verdicts: Verdicts = {}
    errors: list[EdgeDeployError] = []
    for number, (name, (backend, form)) in enumerate(candidates.items()):
        place = folder / str(number) / out.name
        result = _attempt(partial(BACKENDS.get(backend).build, form, target, options, place))
        if isinstance(result, Artifact):
            built[name] = result
        else:
            errors.append(result)
            verdicts[name] = {"backend": name, "verdict": str(result)}
    if not built:
        # A refusal says more than an absence: it is about the user's model.
        ranked = sorted(
            errors, key=lambda e: (not isinstance(e, UnsupportedOpError), not isinstance(e, BuildError))
        )
        raise ranked[0]
    return built, verdicts


def _measure(
    artifact: Artifact,
    built: dict[str, Artifact],
    verdicts: Verdicts,
    shapes: Shapes,
    inputs: Sequence[Feeds],
) -> Artifact:
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, candidate in built.items():
            backend = BACKENDS.get(candidate.backend)
            session = _attempt(partial(backend.open, candidate, OpenOptions(shapes=shapes)))
            if isinstance(session, Session):
                sessions[name] = stack.enter_context(session)
            else:
                verdicts[name] = {"backend": name, "verdict": f"not measured: {session}"}
        if not sessions:
            first = next(iter(built))
            verdicts[first]["verdict"] = f"kept, {verdicts[first]['verdict']}"
            return built[first]
        passed = check(artifact, sessions, verdicts, shapes, inputs)
        times = interleaved_ms({n: sessions[n] for n in passed}, random_feeds(artifact, shapes))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    fastest = min(medians, key=lambda name: medians[name])
    for name, median in medians.items():
        slower = f"{median / medians[fastest]:.2f} times as long as {fastest}"
        verdicts[name] |= {"milliseconds": round(median, 4), "verdict": "kept" if name == fastest else slower}
    return built[fastest]


def _workplace(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder to build in beside `out`, so that the winner only has to be renamed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=out.parent, prefix=".build-")
    except OSError as error:
        raise OutputError(
            f"cannot write {out}: {error.strerror or error}", "choose another place with -o"
        ) from error


def _attempt(action: Callable[[], T]) -> T | EdgeDeployError:
    """What the action gives, or why this backend is out of the contest."""
    try:
        return action()
    except (MissingDependencyError, BuildError, DeviceError) as error:
        return error


def _move(winner: Artifact, out: Path, considered: Details) -> Artifact:
    """Put the winner's file in its place, with what was considered in its metadata."""
    details = winner.details | considered
    if winner.kind == "onnx":
        return relabeled(winner, out, details=details)
    with replacing(out) as temporary:
        winner.path.replace(temporary)
    kept = winner.model_copy(update={"path": out, "details": details})
    kept.save_sidecar()
    return kept
