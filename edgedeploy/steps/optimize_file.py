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
        tail: of a model that was split, the part behind; `artifact` is then the part before.
    """

    artifact: Artifact
    result: OptimizeResult
    before: Census
    after: Census
    repros: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
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
) -> Optimized:
    """Fold and clean an ONNX file, prove every pass, and write the result.

    Args:
        source: an .onnx, its weights inside or beside it.
        out: file to write; by default `<name>.optimized.onnx` in the current folder.
        passes: names of the passes to run, in this order; by default all that keep inputs and outputs.
        skip: names of default passes to leave out.
        pad_channels: pad channels between convolutions to a multiple of this, see the pass pad-channels.
        target: a file of targets/, whose `lower` passes are run after the others.
        data: an image folder, a video or an .npz: up to `limit` real inputs on which passes are proved too.
        verify: False runs the passes unproved.
        seeds: random inputs on which passes are proved.
        simplify: "onnxslim", "onnxsim" or "onnxoptimizer" runs before the passes, in a process of its own,
            and is proved like a pass.
        split_at: names of tensors of `source` at which it is cut in two; each part is optimized by itself,
            and what follows them goes to `<out>.tail.onnx`.
        repro: folder for small models that show what a pass broke; by default `<out>.repro`, made only then.
        external_data: write the weights to `<out>.data` beside the model; models over 2 GB always do.
        in_place: write the result over `source`.

    Raises:
        ArtifactError: the file is damaged. UsageError: the words do not fit, or nothing can prove the model.
        UnknownNameError: no such pass, target, tensor or simplifier. MissingDependencyError: no simplifier.
        OutputError: the result cannot be written.
    """
    source = Path(source)
    place = _place(source, out, in_place=in_place)
    if split_at and in_place:
        raise UsageError("--in-place and --split-at exclude each other", "name the first part with -o")
    from edgedeploy.export.order import DEFAULT_PASSES
    from edgedeploy.export.surgery import Lowering
    from edgedeploy.graphs.read import read_model
    from edgedeploy.steps.optimize_part import Orders, Part, cut

    chosen = _passes(passes, skip, DEFAULT_PASSES)
    if pad_channels is not None and pad_channels < 2:
        raise UsageError(f"channels are padded to a multiple of 2 or more, not {pad_channels}", "try 8")
    asked = load_target(target) if target else None
    lowering = Lowering(asked.unsupported_ops, asked.newest_opset, tuple(skip)) if asked else Lowering()
    orders = Orders(tuple(chosen), lowering, pad_channels, simplify, verify, seeds)
    artifact = Artifact.load(source)
    feeds = _feeds(artifact, Path(data), limit) if data is not None else []
    whole = Part(read_model(source), artifact, place, Path(repro) if repro is not None else None, feeds)
    if not split_at:
        return orders.carry_out(whole, source).written(external_data=external_data)
    before, behind = cut(whole, split_at)
    check_writable(behind.place)
    first, second = orders.carry_out(before, source), orders.carry_out(behind, source)
    return first.written_with(second, external_data=external_data)


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
    from edgedeploy.export.graph_pass import PASSES

    for name in names:
        if not PASSES.get(name).keeps_contract:
            raise UsageError(
                f"{name} changes what the model takes or gives",
                "edgedeploy export does that: --preprocess, --uint8 or --argmax",
            )
    return list(names)


def _feeds(artifact: Artifact, data: Path, limit: int) -> list[Mapping[str, Any]]:
    """Real inputs for the proof."""
    from edgedeploy.calibration.collect.data import calibration_feeds
    from edgedeploy.task import task_for

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

    from edgedeploy.backend import check_feed

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
