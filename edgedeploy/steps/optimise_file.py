"""Graph surgery on an ONNX file: `edgedeploy.optimize(...)`, which the command of that name calls."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import check_writable
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target

if TYPE_CHECKING:
    from edgedeploy.export.census import Census
    from edgedeploy.export.runner import OptimizeResult

MOST_BYTES = 1 << 30  # of one set of inputs


@dataclass(frozen=True)
class Optimized:
    """What became of a file.

    Attributes:
        artifact: the file written.
        result: the steps, what was left alone and why, what was taken back.
        before, after: counts of the two models.
        repros: folders, one for each rewrite that was taken back.
        notes: what else a person should know, in one line each.
    """

    artifact: Artifact
    result: OptimizeResult
    before: Census
    after: Census
    repros: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def optimize(
    source: Path | str,
    out: Path | str | None = None,
    *,
    passes: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    target: str | None = None,
    data: Path | str | None = None,
    limit: int = 8,
    verify: bool = True,
    seeds: int = 2,
    simplify: str | None = None,
    repro: Path | str | None = None,
    external_data: bool = False,
    in_place: bool = False,
) -> Optimized:
    """Fold and clean an ONNX file, prove every pass, and write the result.

    Args:
        source: an .onnx, its weights inside or beside it.
        out: file to write; by default `<name>.optimized.onnx` in the current folder.
        passes: names of the passes to run, in this order; by default all that keep inputs and outputs.
        skip: names of default passes to leave out.
        target: a file of targets/, whose `lower` passes are run after the others.
        data: an image folder, a video or an .npz: up to `limit` real inputs on which passes are proved too.
        verify: False runs the passes unproved.
        seeds: random inputs on which passes are proved.
        simplify: "onnxslim", "onnxsim" or "onnxoptimizer" runs before the passes, in a process of its own,
            and is proved like a pass.
        repro: folder for small models that show what a pass broke; by default `<out>.repro`, made only then.
        external_data: write the weights to `<out>.data` beside the model; models over 2 GB always do.
        in_place: write the result over `source`.

    Raises:
        ArtifactError: the file is damaged. UsageError: the words do not fit, or nothing can prove the model.
        UnknownNameError: no such pass, target or simplifier. MissingDependencyError: simplifier absent.
        OutputError: the result cannot be written.
    """
    source = Path(source)
    place = _place(source, out, in_place=in_place)
    from edgedeploy.export.adopt import precision_of
    from edgedeploy.export.census import census
    from edgedeploy.export.metadata import PROTOBUF_LIMIT, save_model
    from edgedeploy.export.order import DEFAULT_PASSES, default_passes
    from edgedeploy.export.read import read_model
    from edgedeploy.export.runner import optimize as run
    from edgedeploy.export.surgery import passes_that_lower, recorded

    chosen = _passes(passes, skip, DEFAULT_PASSES)
    lower = passes_that_lower(load_target(target).unsupported_ops) if target else []
    model = read_model(source)
    artifact = Artifact.load(source)
    feeds = _feeds(artifact, Path(data), limit) if data is not None else []
    notes: list[str] = []
    before = census(model)
    start = model
    if simplify is not None:
        from edgedeploy.export.simplify import simplified

        start, said = simplified(model, simplify, verify=verify, seeds=seeds, feeds=feeds)
        notes.append(said)
    result = run(start, chosen, verify=verify, seeds=seeds, feeds=feeds)
    if lower and not result.left_alone:
        after = default_passes("clean", "fold", "merge", "pack")
        result = result.then(run(result.model, [*lower, *after], verify=verify, seeds=seeds, feeds=feeds))
    if result.left_alone:
        hint = "go without proof: --no-verify" if verify else "nothing can be done with this file"
        raise UsageError(f"{source} was left alone: {result.left_alone}", hint)
    described = recorded(artifact, model, result)
    if artifact.precision == "fp32":
        described = described.model_copy(update={"precision": precision_of(result.model)})
    if not described.model:
        described = described.model_copy(update={"model": source.stem})
    written = save_model(result.model, described, place, limit=0 if external_data else PROTOBUF_LIMIT)
    folder = Path(repro) if repro is not None else place.with_name(f"{place.stem}.repro")
    return Optimized(
        written, result, before, census(result.model), _save_repros(result, folder), tuple(notes)
    )


def _place(source: Path, out: Path | str | None, *, in_place: bool) -> Path:
    """Where to write; raises UsageError where that is a folder, or the source itself and not asked for."""
    if in_place and out is not None:
        raise UsageError("--in-place and -o exclude each other", "give one of them")
    place = source if in_place else Path(out) if out is not None else Path(f"{source.stem}.optimized.onnx")
    if place.is_dir():
        raise UsageError(f"{place} is a folder", "name a file with -o")
    if not in_place and place.exists() and source.exists() and place.samefile(source):
        raise UsageError(
            f"{place} is the input itself", "write it over with --in-place, or name another file"
        )
    check_writable(place)
    return place


def _passes(passes: Sequence[str] | None, skip: Sequence[str], default: Sequence[str]) -> list[str]:
    if passes is not None and skip:
        raise UsageError("--passes and --skip exclude each other", "leave the names out of --passes")
    _checked(skip)
    return [name for name in default if name not in skip] if passes is None else _checked(passes)


def _checked(names: Sequence[str]) -> list[str]:
    """Names of passes that exist and that leave inputs and outputs what they are."""
    from edgedeploy.export.passes.base import PASSES

    for name in names:
        if not PASSES.get(name).keeps_contract:
            raise UsageError(
                f"{name} changes what the model takes or gives",
                "edgedeploy export does that: --preprocess, --uint8 or --argmax",
            )
    return list(names)


def _feeds(artifact: Artifact, data: Path, limit: int) -> list[Mapping[str, Any]]:
    """Real inputs for the proof."""
    from edgedeploy.calibration.data import calibration_feeds
    from edgedeploy.tasks.base import task_for

    if not data.exists():
        raise UsageError(f"{data} does not exist", "name an image folder, a video or an .npz with --data")
    whole = _whole_arrays(artifact, data) if data.suffix.lower() == ".npz" else None
    if whole is not None:
        return [whole]
    names = tuple(spec.name for spec in artifact.inputs)
    task = task_for(artifact)
    return list(calibration_feeds(data, task.preprocess, limit, inputs=names, specs=artifact.inputs))


def _whole_arrays(artifact: Artifact, data: Path) -> Mapping[str, Any] | None:
    """The arrays of a file as one set of inputs, where each has its input's whole shape; else None.

    They may have batches of several, or no batch at all, which rows of arrays cannot.
    """
    import numpy as np

    from edgedeploy.backends.base import check_feed

    try:
        with zipfile.ZipFile(data) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                return None
        with np.load(data, allow_pickle=False) as arrays:
            feeds = {name: arrays[name] for name in arrays.files}
        for spec in artifact.inputs:
            check_feed(spec, feeds)
    except (UsageError, ValueError, KeyError, OSError, zipfile.BadZipFile):  # reading rows says what is wrong
        return None
    return feeds if set(feeds) == {spec.name for spec in artifact.inputs} else None


def _save_repros(result: OptimizeResult, folder: Path) -> tuple[Path, ...]:
    saved = []
    for number, offence in enumerate(result.offences, 1):
        if offence.repro is not None:
            place = folder / f"{number:02}-{offence.name}"
            offence.repro.save(place, offence.name, offence.reason)
            saved.append(place)
    return tuple(saved)
