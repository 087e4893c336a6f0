"""Statistics outlive the process: they are kept by content, served in part, and a killed run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from edgedeploy.calibration import quantize
from edgedeploy.calibration.calibrator import TensorStatistics
from edgedeploy.calibration.collect.accumulate import Accumulator
from edgedeploy.calibration.collect.collect import collect
from edgedeploy.calibration.collect.dataset import CalibrationData
from edgedeploy.calibration.collect.histogram import Histogram
from edgedeploy.calibration.collect.probe import Probe
from edgedeploy.calibration.collect.store import Group, model_digest
from tests.conftest import ROOT
from tests.support.calibration_nets import RULES, TENSORS, data, network, unit_image


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(10):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The tensors of every run of a network since the test began."""
    made: list[tuple[str, ...]] = []
    run = Probe.run

    def counting(self: Probe, feeds: Any) -> Any:
        made.append((*self.given, *self.computed))
        return run(self, feeds)

    monkeypatch.setattr(Probe, "run", counting)
    return made


def same(first: TensorStatistics, second: TensorStatistics) -> bool:
    assert first.extremes is not None
    assert second.extremes is not None
    if (first.histogram is None) != (second.histogram is None):
        return False
    if first.histogram is not None and second.histogram is not None:
        alike = first.histogram.exponent == second.histogram.exponent
        if not alike or not np.array_equal(first.histogram.counts, second.histogram.counts):
            return False
    figures = [(s.minimum, s.maximum, s.count, s.nonfinite) for s in (first, second)]
    peaks = [s.peaks if s.peaks is not None else np.zeros(0) for s in (first, second)]
    return (
        figures[0] == figures[1]
        and np.array_equal(first.extremes, second.extremes)
        and np.array_equal(peaks[0], peaks[1])
    )


def test_what_was_measured_is_served_and_only_the_rest_is_collected(
    photos: Path, tmp_path: Path, runs: list[tuple[str, ...]]
) -> None:
    model, keep = network(), tmp_path / "kept"
    first = collect(model, TENSORS[:2], data(photos, keep), histograms=True)
    assert runs == [("x", "stem_r")] * 10
    source = data(photos, keep)
    more = collect(model, TENSORS, source, histograms=True)
    assert runs[10:] == [("one_sum", "both")] * 10
    again_source = data(photos, keep)
    (entry,) = keep.glob("??/*")
    os.utime(entry, (0, 0))
    again = collect(model, TENSORS[::-1], again_source, histograms=False)
    assert len(runs) == 20
    assert entry.stat().st_mtime > 0, "the cache sweeps what is not asked for"
    assert (again.passes, again.images, list(again.statistics)) == (0, 10, TENSORS[::-1])
    assert all(same(first.statistics[name], again.statistics[name]) for name in TENSORS[:2])
    assert all(same(more.statistics[name], again.statistics[name]) for name in TENSORS)
    plain = collect(model, TENSORS, lambda: data(photos, keep)(), histograms=True)
    assert all(same(plain.statistics[name], again.statistics[name]) for name in TENSORS)
    # What the pass over the data met is told without that pass.
    assert again_source.report == source.report
    assert again_source.report.skipped == {"broken.png": "not a whole image"}


def test_histograms_and_peaks_are_collected_where_only_less_is_known(
    photos: Path, tmp_path: Path, runs: list[tuple[str, ...]]
) -> None:
    model, keep = network(), tmp_path / "kept"
    collect(model, ["both"], data(photos, keep), histograms=False)
    found = collect(model, ["both"], data(photos, keep), histograms=True)
    assert found.statistics["both"].histogram is not None
    peaks = collect(model, ["both"], data(photos, keep), histograms=False, channels=True)
    assert peaks.statistics["both"].peaks is not None
    assert len(runs) == 30
    kept = collect(model, ["both"], data(photos, keep), histograms=False, channels=True)
    assert same(kept.statistics["both"], peaks.statistics["both"])
    assert len(runs) == 30


def test_another_method_or_placement_does_not_run_the_network_again(
    photos: Path, tmp_path: Path, runs: list[tuple[str, ...]]
) -> None:
    model, keep = network(), tmp_path / "kept"
    rules = RULES.with_options(corrections={"equalize": {}})  # rounding runs each form of the network anew
    quantize(model, data(photos, keep), method="entropy", rules=rules)
    made = len(runs)
    assert made in (10, 20)  # the second pass where channels are equalized
    ranges = {}
    for method in ("mse", "percentile", "minmax", "moving-average"):
        ranges[method] = quantize(model, data(photos, keep), method=method, rules=rules).ranges["both"]
    quantize(model, data(photos, keep), rules=rules.with_options(last=False, bias="int32"))
    assert len(runs) == made
    assert len(set(ranges.values())) > 2


@pytest.mark.parametrize("change", ["weights", "limit", "preprocessing", "image"])
def test_whatever_decides_the_statistics_is_part_of_their_key(
    change: str, photos: Path, tmp_path: Path, runs: list[tuple[str, ...]]
) -> None:
    keep = tmp_path / "kept"
    collect(network(), ["both"], data(photos, keep), histograms=True)
    if change == "image":
        cv2.imwrite(str(photos / "3.png"), np.zeros((16, 16, 3), np.uint8))
    collect(
        network(weight=0.2 if change == "weights" else 0.1),
        ["both"],
        data(
            photos,
            keep,
            limit=7 if change == "limit" else 64,
            preprocessing="other" if change == "preprocessing" else "unit",
        ),
        histograms=True,
    )
    assert len(runs) == (17 if change == "limit" else 20)


def test_the_digest_of_a_model_leaves_out_what_it_is_called_and_what_it_returns() -> None:
    model, other = network(), network()
    other.metadata_props.add(key="edgedeploy", value="a long history")
    other.doc_string = "made today"
    other.graph.output.add().name = "both"
    assert model_digest(model) == model_digest(other)
    other.graph.node[0].attribute[0].ints[0] = 0
    assert model_digest(model) != model_digest(other)


def test_damaged_files_are_collected_anew(photos: Path, tmp_path: Path, runs: list[tuple[str, ...]]) -> None:
    keep = tmp_path / "kept"
    first = collect(network(), TENSORS, data(photos, keep), histograms=True)
    (path,) = keep.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:-100])
    (path.parent / "under-way.npz").write_bytes(b"PK nonsense")
    second = collect(network(), TENSORS, data(photos, keep), histograms=True)
    assert len(runs) == 20
    assert all(same(first.statistics[name], second.statistics[name]) for name in TENSORS)


@pytest.mark.parametrize("memory_mb", [512, 0])
@pytest.mark.parametrize("stop", [1, 5, 9, 14])
def test_an_interrupted_run_goes_on_at_the_image_where_it_stopped(
    stop: int,
    memory_mb: int,
    photos: Path,
    tmp_path: Path,
    runs: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C comes while the network runs: what was measured until then is kept, whichever pass it is."""
    whole = collect(network(), TENSORS, lambda: data(photos, tmp_path)(), histograms=True)
    runs.clear()
    counted = Probe.run

    def interrupted(self: Probe, feeds: Any) -> Any:
        if len(runs) == stop:
            raise KeyboardInterrupt
        return counted(self, feeds)

    monkeypatch.setattr(Probe, "run", interrupted)
    if stop < 10 or not memory_mb:
        with pytest.raises(KeyboardInterrupt):
            collect(network(), TENSORS, data(photos, tmp_path / "kept"), histograms=True, memory_mb=memory_mb)
    else:
        collect(network(), TENSORS, data(photos, tmp_path / "kept"), histograms=True, memory_mb=memory_mb)
    done = len(runs)
    monkeypatch.setattr(Probe, "run", counted)
    seen: list[tuple[int, int | None]] = []
    source = data(photos, tmp_path / "kept")
    found = collect(
        network(),
        TENSORS,
        source,
        histograms=True,
        memory_mb=memory_mb,
        progress=lambda now, total: seen.append((now, total)),
    )
    assert len(runs) == (10 if memory_mb else 10 * len(TENSORS))
    assert done == min(stop, 10) if memory_mb else stop
    assert all(same(whole.statistics[name], found.statistics[name]) for name in TENSORS)
    assert source.report.used == 10
    assert not list(tmp_path.rglob("under-way.npz"))
    if seen:
        assert seen[0][0] >= done % 10
        assert [now for now, _ in seen] == sorted(now for now, _ in seen)
        assert seen[-1][0] == seen[-1][1]


def test_a_begun_group_of_other_tensors_is_not_mixed_in(photos: Path, tmp_path: Path) -> None:
    source = data(photos, tmp_path / "kept")
    store = source.store(network())
    assert store is not None
    begun = Accumulator(Histogram(), extremes=[(0.0, 1.0)] * 3)
    store.checkpoint(Group({"up_r": begun}, images=3))
    found = collect(network(), TENSORS, source, histograms=True)
    assert list(found.statistics) == TENSORS
    assert found.images == 10


WORKER = """
import sys, time
from pathlib import Path
from edgedeploy.calibration.collect import collect as module
from edgedeploy.calibration.collect.collect import collect
from tests.support.calibration_nets import TENSORS, data, network
module.CHECKPOINT_S = 0.0
def slow(done, total):
    print(done, flush=True)
    time.sleep(0.05)
collect(network(), TENSORS, data(Path(sys.argv[1]), Path(sys.argv[2])), histograms=True, progress=slow)
print("end", flush=True)
"""


def test_a_killed_process_loses_nothing_but_the_image_at_hand(photos: Path, tmp_path: Path) -> None:
    """SIGKILL at a random image, twice; the third process ends with the ranges of an undisturbed one."""
    whole = collect(network(), TENSORS, lambda: data(photos, tmp_path)(), histograms=True)
    keep, begun = tmp_path / "kept", 0
    for stop in sorted(random.Random(time.time_ns()).sample(range(2, 9), 2)):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(photos), str(keep)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert worker.stdout is not None
        lines = []
        for line in worker.stdout:
            lines.append(int(line))
            if int(line) >= stop:
                worker.send_signal(signal.SIGKILL)
                break
        worker.wait()
        worker.stdout.close()
        assert lines[0] >= begun, "it began again with what had been done"
        begun = max(stop - 1, 1)
        assert not list(keep.rglob("group-*"))
    counted: list[int] = []
    found = collect(
        network(), TENSORS, data(photos, keep), histograms=True, progress=lambda done, _: counted.append(done)
    )
    assert counted[0] >= begun
    assert all(same(whole.statistics[name], found.statistics[name]) for name in TENSORS)


def test_iterables_are_collected_every_time(photos: Path, tmp_path: Path) -> None:
    images = [np.full((16, 16, 3), index, np.uint8) for index in range(8)]
    source = CalibrationData(images, unit_image, keep=tmp_path / "kept")
    model = network()
    assert source.store(model) is None
    assert len(source()) == collect(model, ["both"], source, histograms=False).images == 8  # type: ignore[arg-type]
    assert not (tmp_path / "kept").exists()
    assert isinstance(model, onnx.ModelProto)
