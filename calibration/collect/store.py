"""Statistics on disk by content: what one run of a network measured, no later one measures again.

An entry is a folder that belongs to one model over one set of inputs. Each finished group of tensors is one
.npz in it, and a group under way another, from which an interrupted calibration goes on. Files appear whole
or not at all; one that does not load is taken for absent.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.collect.accumulate import Accumulator
from edgedeploy.calibration.collect.histogram import Histogram
from edgedeploy.core.cache import code_digest, mark_used
from edgedeploy.core.files import replacing, sha256_text

_UNDER_WAY = "under-way.npz"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass
class Group:
    """Tensors measured together.

    Attributes:
        accumulators: by tensor.
        images: inputs that they have seen.
        report: what the data's report said, as JSON.
    """

    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    images: int = 0
    report: str = ""


class StatisticsStore:
    """The entry of one model and one set of inputs below a folder of such entries.

    Args:
        root: that folder.
        model: whose weights and nodes are part of the key.
        data: names the inputs, in their order, with all that was done to them.
    """

    def __init__(self, root: Path, model: onnx.ModelProto, data: str) -> None:
        key = sha256_text(model_digest(model), data, code_digest())
        self.folder = root / key[:2] / key

    def finished(self, tensors: Sequence[str], *, histograms: bool, channels: bool) -> Group:
        """What is known of the tensors; those that are not, or not as fully as asked for, are left out."""
        result = Group()
        mark_used(self.folder)
        for path in sorted(self.folder.glob("group-*.npz")):
            group = _read(path)
            if group is None:
                continue
            for name, entry in group.accumulators.items():
                enough = (entry.histogram is not None or not histograms) and (entry.channels or not channels)
                if enough and name in tensors:
                    result.accumulators[name] = entry
                    result.images, result.report = group.images, group.report
        return result

    def under_way(self) -> Group | None:
        """The group that an interrupted run left."""
        return _read(self.folder / _UNDER_WAY)

    def checkpoint(self, group: Group) -> None:
        """Keep a group that has not seen every input yet."""
        _write(self.folder / _UNDER_WAY, group, np.savez)

    def finish(self, group: Group) -> None:
        """Keep a group that has."""
        name = sha256_text(*group.accumulators, *map(str, _kind(group)))[:32]
        _write(self.folder / f"group-{name}.npz", group, np.savez_compressed)
        (self.folder / _UNDER_WAY).unlink(missing_ok=True)


def model_digest(model: onnx.ModelProto) -> str:
    """Digest of what a model computes inside: nodes, weights and inputs; not of outputs and descriptions."""
    graph = model.graph
    parts: Iterable[Any] = (*graph.node, *graph.initializer, *graph.input, *model.functions)
    opsets = [f"{entry.domain} {entry.version}" for entry in model.opset_import]
    return sha256_text(*opsets, *(_digest(part) for part in parts))


def _digest(message: Any) -> str:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def _kind(group: Group) -> tuple[bool, bool]:
    first = next(iter(group.accumulators.values()))
    return first.histogram is not None, first.channels


def _write(path: Path, group: Group, save: Any) -> None:
    entries = list(group.accumulators.values())
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array(list(group.accumulators)),
        "images": np.array(group.images),
        "report": np.array(group.report),
        "channels": np.array(_kind(group)[1]),
        "tallies": np.array([(entry.count, entry.nonfinite) for entry in entries]),
        "extremes": np.array([entry.extremes for entry in entries], dtype=np.float64),
    }
    if _kind(group)[0]:
        histograms = [entry.histogram for entry in entries if entry.histogram is not None]
        arrays["exponents"] = np.array([histogram.exponent for histogram in histograms])
        arrays["counts"] = np.stack([histogram.counts for histogram in histograms])
    for number, entry in enumerate(entries):
        if entry.peaks is not None:
            arrays[f"peaks{number}"] = entry.peaks
    with replacing(path) as temporary, temporary.open("wb") as stream:
        save(stream, **arrays)


def _read(path: Path) -> Group | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return _unpacked({key: file[key] for key in file.files})
    except _DAMAGE:
        return None


def _unpacked(file: Mapping[str, NDArray[Any]]) -> Group:
    names, tallies, extremes = file["names"], file["tallies"], file["extremes"]
    counts = file.get("counts")
    group = Group({}, int(file["images"]), str(file["report"]))
    for number, name in enumerate(names):
        histogram = (
            None if counts is None else Histogram(int(file["exponents"][number]), counts[number].copy())
        )
        group.accumulators[str(name)] = Accumulator(
            histogram,
            bool(file["channels"]),
            file.get(f"peaks{number}"),
            [(float(low), float(high)) for low, high in extremes[number]],
            int(tallies[number][0]),
            int(tallies[number][1]),
        )
    return group
