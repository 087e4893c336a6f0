"""`optimize`: the graph passes of the pipeline on an ONNX file, or on the two parts of one that is split."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.cache import Cache
from edgedeploy.core.details import Details, SplitDetails
from edgedeploy.core.errors import EdgeDeployError, UsageError
from edgedeploy.core.files import check_writable
from edgedeploy.core.job import Job
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.pipeline import Monitor, Silent, Stage, run
from edgedeploy.verbs.deploy import make_job

if TYPE_CHECKING:
    from edgedeploy.export.report import PassReport


@dataclass(frozen=True)
class Optimized:
    """An ONNX file after the graph passes.

    Attributes:
        artifact: the file written.
        report: what the passes did, see `edgedeploy.export.report.PassReport`.
        tail: the part behind, of a model that was split; `artifact` is then the part before.
    """

    artifact: Artifact
    report: PassReport
    tail: Optimized | None = None


def optimize(
    source: Path | str,
    out: Path | str | None = None,
    *,
    passes: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    pad_channels: int | None = None,
    target: str | None = None,
    data: Path | str | None = None,
    limit: int = 8,
    verify: bool = True,
    seeds: int = 2,
    simplify: str | None = None,
    split_at: Sequence[str] = (),
    repro: Path | str | None = None,
    external_data: bool = False,
    in_place: bool = False,
    monitor: Monitor[Stage] | None = None,
) -> Optimized:
    """Fold and clean an ONNX file, prove every pass, and write the result.

    Args:
        source: an .onnx, its weights inside or beside it.
        out: the file to write; by default `<name>.optimized.onnx` in the current folder.
        passes: names of the passes to run, in this order; by default all that keep inputs and outputs.
        skip: names of default passes to leave out.
        pad_channels: pad channels between convolutions to a multiple of this, see the pass pad-channels.
        target: a file of targets/; operators and an opset that this device lacks are replaced too.
        data: an image folder, a video or an .npz: up to `limit` real inputs on which passes are proved too.
        verify: False runs the passes unproved.
        seeds: random inputs on which passes are proved.
        simplify: "onnxslim", "onnxsim" or "onnxoptimizer" runs before the passes, in a process of its own,
            and is proved like a pass.
        split_at: names of tensors of `source` at which it is cut in two; each part is optimized by itself,
            and the part behind the tensors goes to `<out>.tail.onnx`.
        repro: folder for small models that show what a pass broke; by default `<out>.repro`, made only then.
        external_data: write the weights to `<out>.data` beside the model; models over 2 GB always do.
        in_place: write the result over `source`.
        monitor: receives the progress and notes.

    Raises:
        ArtifactError: the file is damaged. UsageError: options exclude each other, or nothing can prove the
            model. UnknownNameError: no such pass, target, tensor or simplifier.
        MissingDependencyError: no simplifier. OutputError: the result cannot be written.
    """
    source = Path(source)
    place = _place(source, out, in_place=in_place)
    if split_at and in_place:
        raise UsageError("--in-place and --split-at exclude each other", "name the first part with -o")
    if passes is not None and skip:
        raise UsageError("--passes and --skip exclude each other", "leave the names out of --passes")
    _check_passes([*(passes or ()), *skip])
    if pad_channels is not None and pad_channels < 2:
        raise UsageError(f"channels are padded to a multiple of 2 or more, not {pad_channels}", "try 8")
    fields: dict[str, Any] = {
        "precision": "fp32",  # of the job, which lowers nothing
        "optimize.passes": None if passes is None else tuple(passes),
        "optimize.skip": tuple(skip),
        "optimize.verify": verify,
        "optimize.seeds": seeds,
        "optimize.real_inputs": limit,
        "optimize.simplify": simplify,
        "optimize.pad_channels": pad_channels,
    }
    job = make_job(source, fields, target=target or "cpu", data=data)
    until = "optimize" if target is None else "replace"
    part = _Part(job, place, place.with_name(f"{place.stem}.repro") if repro is None else Path(repro))
    with tempfile.TemporaryDirectory() as folder:
        parts = [part] if not split_at else _split(part, split_at, Path(folder))
        # Nothing is kept for a later run: the digest of a file does not cover weights that lie beside it.
        cache = Cache(Path(folder) / "cache")
        for entry in parts:
            check_writable(entry.place)
        made = [_run(entry, source, until, cache, monitor or Silent()) for entry in parts]
        return _write(parts, made, external_data=external_data)


@dataclass(frozen=True)
class _Part:
    """An ONNX file to optimize: its job, the file to write, and the folder for models that show faults."""

    job: Job
    place: Path
    repro: Path


def _run(part: _Part, source: Path, until: str, cache: Cache, monitor: Monitor[Stage]) -> Artifact:
    """The optimized artifact in the cache; raises UsageError where nothing can prove it."""
    from edgedeploy.export.report import PassReport

    made = run(part.job, monitor, cache, until, since="optimize", start=Artifact.load(part.job.source))
    report = PassReport.beside(made.path)
    if report is not None and report.not_run:
        verify = part.job.recipe.optimize.verify
        hint = "go without proof: --no-verify" if verify else "nothing can be done with this file"
        raise UsageError(f"{source} was not optimized: {report.not_run}", hint)
    return made


def _write(parts: Sequence[_Part], made: Sequence[Artifact], *, external_data: bool) -> Optimized:
    """Write all parts or none, the last one first; raises OutputError."""
    from edgedeploy.export.report import PassReport
    from edgedeploy.graphs.metadata import save_model
    from edgedeploy.graphs.read import read_model

    (part, *others), (artifact, *behind) = parts, made
    was_there = bool(others) and others[0].place.exists()
    tail = _write(others, behind, external_data=external_data) if others else None
    try:
        # Saved rather than copied: weights beside the model are named after the file.
        limit = 0 if external_data else None
        saved = save_model(read_model(artifact.path), artifact, part.place, limit=limit)
    except EdgeDeployError:
        if others and not was_there:
            others[0].place.unlink(missing_ok=True)
        raise
    report = PassReport.beside(artifact.path)
    assert report is not None  # noqa: S101  the optimize step writes it
    folders = [part.repro / folder.name for folder in report.repros]
    for folder, copy in zip(report.repros, folders, strict=True):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    return Optimized(saved, replace(report, repros=tuple(folders)), tail)


def _split(whole: _Part, tensors: Sequence[str], folder: Path) -> list[_Part]:
    """The parts before and behind the named tensors; what follows is proved on the first part's outputs.

    The first part keeps the task, since it has the inputs of the whole; the second has none. Raises
    UnknownNameError and UsageError as `export.split.split` does.
    """
    from edgedeploy.export.split import split
    from edgedeploy.graphs.metadata import save_model
    from edgedeploy.graphs.read import read_model

    place, source = whole.place, Path(whole.job.source)
    head, tail = split(read_model(source), tensors)
    behind = place.with_name(f"{place.stem}.tail{place.suffix}")
    known = Artifact.load(source)
    names = SplitDetails(at=tuple(tensors), head=place.name, tail=behind.name)
    details = known.details | Details(split=names)
    first = save_model(head, known.model_copy(update={"details": details}), folder / "head.onnx")
    second = first.model_copy(update={"task": TaskSpec(), "labels": ()})
    second = save_model(tail, second, folder / "tail.onnx")
    default = whole.repro == place.with_name(f"{place.stem}.repro")
    repro = behind.with_name(f"{behind.stem}.repro") if default else whole.repro / "tail"
    feeds = _save_outputs(first, whole.job, {spec.name for spec in second.inputs}, folder / "feeds")
    return [
        _Part(replace(whole.job, source=str(first.path)), place, whole.repro),
        _Part(replace(whole.job, source=str(second.path), data=feeds), behind, repro),
    ]


def _save_outputs(first: Artifact, job: Job, wanted: set[str], folder: Path) -> Path | None:
    """A folder with the first part's outputs for the job's data, an .npz for each input of the data.

    None where there is no data, or where the first part does not run, which its own proof reports.
    """
    import numpy as np

    from edgedeploy.graphs.read import read_model
    from edgedeploy.graphs.run import Evaluator, NotRunnable
    from edgedeploy.steps.optimize import real_inputs

    feeds = real_inputs(first, job)
    if not feeds:
        return None
    folder.mkdir()
    try:
        runner = Evaluator(read_model(first.path))
        for number, feed in enumerate(feeds):
            outputs = {name: value for name, value in runner(feed).items() if name in wanted}
            np.savez(folder / f"{number:04}.npz", **outputs)  # type: ignore[arg-type]  # names may be any text
    except NotRunnable:
        return None
    return folder


def _place(source: Path, out: Path | str | None, *, in_place: bool) -> Path:
    """Where to write; raises UsageError for a folder, and for the source itself unless that was asked for."""
    if in_place and out is not None:
        raise UsageError("--in-place and -o exclude each other", "give one of them")
    place = source if in_place else Path(out) if out is not None else Path(f"{source.stem}.optimized.onnx")
    if place.is_dir():
        raise UsageError(f"{place} is a folder", "name a file with -o")
    if not in_place and place.exists() and source.exists() and place.samefile(source):
        raise UsageError(
            f"{place} is the input itself", "write it over with --in-place, or name another file"
        )
    return place


def _check_passes(names: Sequence[str]) -> None:
    """Refuse names of passes that do not exist, or that change inputs or outputs."""
    from edgedeploy.export.graph_pass import PASSES

    for name in names:
        if not PASSES.get(name).keeps_contract:
            raise UsageError(
                f"{name} changes what the model takes or gives",
                "edgedeploy export does that: --preprocess, --uint8 or --argmax",
            )
