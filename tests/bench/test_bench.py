"""The bench: statistics against numpy and theory, reports parsed back, budgets, and real runs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.backend import Feeds, Outputs, Session
from edgedeploy.bench import (
    BenchReport,
    BenchResult,
    Rounds,
    bench,
    describe_machine,
    parse_budgets,
    time_interleaved,
)
from edgedeploy.bench.statistics import median_interval, noise_note, percentiles, speedup_interval
from edgedeploy.core.errors import ArtifactError, BudgetError, UsageError
from edgedeploy.core.spec import TensorSpec
from tests.support.onnx_models import save_convolutions

SPEC = TensorSpec(name="x", dtype="float32", shape=(4, 2))


class Recorder(Session):
    """Writes down that it ran; a device clock that shows `device_ms`."""

    def __init__(self, name: str, log: list[str], device_ms: float | None = None) -> None:
        super().__init__((SPEC,), ())
        self.name, self.log, self.clock = name, log, device_ms

    def _run(self, feeds: Feeds) -> Outputs:  # noqa: ARG002
        self.log.append(self.name)
        self.device_ms = self.clock
        return {}


def feeds_for(names: Mapping[str, Session]) -> dict[str, Feeds]:
    return {name: {"x": np.zeros((4, 2), np.float32)} for name in names}


def result(**changes: object) -> BenchResult:
    numbers = {"mean_ms": 11.0, "min_ms": 9.0, "p50_ms": 10.0, "p90_ms": 12.0, "p95_ms": 13.0, "p99_ms": 14.0}
    more = {"low_ms": 9.5, "high_ms": 10.5, "throughput": 90.9, "speedup": 1.0, "speedup_low": 0.9}
    known: dict[str, object] = {"name": "a|b", "runs": 3, "note": "", "speedup_high": 1.1, **numbers, **more}
    return BenchResult(**{**known, "times_ms": (9.0, 10.0, 14.0), **changes})  # type: ignore[arg-type]


def test_rounds_interleave_after_the_warm_up() -> None:
    log: list[str] = []
    sessions = {name: Recorder(name, log) for name in "abc"}
    results = time_interleaved(sessions, feeds_for(sessions), Rounds.exactly(20), warmup=2)
    assert [r.name for r in results] == ["a", "b", "c"]
    assert [r.runs for r in results] == [20, 20, 20]
    assert log[:6] == ["a", "b", "c"] * 2
    rounds = [tuple(log[i : i + 3]) for i in range(6, len(log), 3)]
    assert len(rounds) == 20
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds), "every model once in every round"
    assert len(set(rounds)) > 1, "not always after the same neighbor"


def test_run_figures_follow_from_its_times() -> None:
    sessions = {"slow": Recorder("slow", [], device_ms=2.5), "fast": Recorder("fast", [])}
    slow, fast = time_interleaved(sessions, feeds_for(sessions), Rounds.exactly(30))
    for one in (slow, fast):
        times = np.asarray(one.times_ms)
        assert one.p50_ms == np.median(times)
        assert (one.p90_ms, one.p95_ms, one.p99_ms) == tuple(np.percentile(times, [90, 95, 99]))
        assert one.mean_ms == pytest.approx(times.mean())
        assert one.throughput == pytest.approx(4 * 1e3 / times.mean()), "a batch of four"
        assert one.low_ms <= one.p50_ms <= one.high_ms
        assert one.speedup == pytest.approx(slow.p50_ms / one.p50_ms)
    assert slow.device_p50_ms == 2.5
    assert fast.device_p50_ms is None


def test_without_runs_it_goes_on_for_the_time_given() -> None:
    seen: list[tuple[int, int]] = []
    sessions = {"a": Recorder("a", [])}
    (one,) = time_interleaved(
        sessions,
        feeds_for(sessions),
        Rounds(seconds=0.0),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert one.runs == 10, "never less than ten"
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == list(range(1, 11))


def test_percentiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    times = rng.gamma(3.0, 2.0, 501)
    assert percentiles(times) == {p: np.percentile(times, p) for p in (50, 90, 95, 99)}
    assert percentiles(np.arange(101.0)) == {50: 50.0, 90: 90.0, 95: 95.0, 99: 99.0}


def test_interval_covers_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        low, high = median_interval(generator.exponential(1.0, 60), seed=trial)
        covered += low <= np.log(2.0) <= high
    # 95 % of 300, within four standard deviations of the binomial
    assert 270 <= covered <= 300


def test_intervals_are_the_same_for_the_same_seed(rng: np.random.Generator) -> None:
    times = rng.normal(10, 1, 80)
    assert median_interval(times, 3) == median_interval(times, 3)
    assert median_interval(times, 3) != median_interval(times, 4)


def test_paired_speedup_cancels_what_disturbs_whole_rounds(rng: np.random.Generator) -> None:
    disturbance = rng.gamma(1.0, 1.0, 200) + 1
    low, high = speedup_interval(2 * disturbance, disturbance)
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(2.0)


def test_noise_is_told() -> None:
    steady = np.full(40, 10.0) + np.tile([0.0, 0.1], 20)
    assert noise_note(steady) == ""
    assert "drift +20%" in noise_note(np.concatenate([steady[:20], 1.2 * steady[20:]]))
    assert "noisy" in noise_note(np.where(np.arange(40) % 10 == 0, 30.0, steady))
    assert "1 of 40 runs far out" in noise_note(np.where(np.arange(40) == 7, 50.0, steady))


def test_peak_memory_sees_an_allocation() -> None:
    # In a process of its own: memory that other tests freed and the allocator kept would be reused unseen.
    program = """
import numpy as np
from edgedeploy.bench.memory import PeakMemory
with PeakMemory() as small:
    pass
with PeakMemory() as large:
    np.ones(64_000_000, np.uint8)
print(small.rise_mb, large.rise_mb)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    if "None" in said:
        pytest.skip("this system does not tell its peak memory")
    small, large = map(float, said.split())
    assert large >= 50
    assert small < 10


def test_reports_parse_back(tmp_path: Path) -> None:
    results = (result(), result(name="c", memory_mb=12.0, note="drift, noisy", backend="null"))
    report = BenchReport(results, {"cpu": "one"}, {"threads": 2}, parse_budgets(["p99<20ms"]))
    for suffix in (".json", ".csv", ".md"):
        report.write(tmp_path / f"r{suffix}")
    document = json.loads((tmp_path / "r.json").read_text())
    assert [BenchResult(**{**r, "times_ms": tuple(r["times_ms"])}) for r in document["results"]] == list(
        results
    )
    assert document["machine"] == {"cpu": "one"}
    assert document["budgets"] == ["p99<20ms"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [float(row["p50_ms"]) for row in rows] == [10.0, 10.0]
    assert rows[1]["note"] == "drift, noisy"
    lines = (tmp_path / "r.md").read_text().splitlines()
    head, _, first, second = (line.replace("\\|", "/").strip("| ").split(" | ") for line in lines[:4])
    assert head == report.columns
    assert first[0] == "a/b"
    assert dict(zip(head, second, strict=False))["memory MB"] == "12"
    assert "device ms" not in head, "a column that nobody has is left out"


def test_report_of_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"r\.html"):
        BenchReport((result(),), {}, {}).write(tmp_path / "r.html")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("p99<20ms", True), ("p99<14ms", False), ("p99<=14ms", True), ("p50<0.02s", True),
        ("p50 < 9000us", False),
        ("throughput>=90", True), ("fps>91", False), ("memory<1GB", True), ("memory<400MB", False),
        ("mean<12,p95<12", False),
    ],
)  # fmt: skip
def test_budgets(text: str, kept: bool) -> None:
    report = BenchReport((result(memory_mb=500.0),), {}, {}, parse_budgets([text]))
    if kept:
        report.check()
        return
    with pytest.raises(BudgetError) as caught:
        report.check()
    assert caught.value.exit_code == 4
    assert "a|b" in str(caught.value)


def test_budget_on_an_unknown_figure_is_missed() -> None:
    with pytest.raises(BudgetError, match="not known"):
        BenchReport((result(memory_mb=None),), {}, {}, parse_budgets(["memory<1GB"])).check()


@pytest.mark.parametrize("text", ["p98<20ms", "p99=20", "fast", "p99<20MB", "p99<-1ms", "p99<20parsecs"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budgets([text])
    assert caught.value.hint


def test_machine_is_described_without_importing_a_runtime() -> None:
    code = (
        "import sys; from edgedeploy.bench.machine import describe_machine as d; m = d(); "
        "assert int(m['cores usable']) > 0 and m['system'] and m['numpy'], m; "
        "bad = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx', 'cv2'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(isinstance(value, str) and value for value in describe_machine().values())


def test_bench_of_real_files(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    static = save_convolutions(tmp_path / "static.onnx", (1, 3, 16, 16))
    dynamic = save_convolutions(tmp_path / "dynamic.onnx", (1, 3, "height", "width"))
    paths = [f"{static}@onnxruntime", f"{dynamic}@null", f"{dynamic}@null"]
    report = bench(paths, runs=12, size=(16, 16), threads=1, budget=["p99<100s"])
    report.check()
    assert [r.name for r in report.results] == [
        "static.onnx@onnxruntime",
        "dynamic.onnx@null",
        "dynamic.onnx@null #2",
    ]
    assert [r.backend for r in report.results] == ["onnxruntime", "null", "null"]
    assert report.results[0].speedup == 1.0
    assert all(r.runs == 12 and r.load_ms is not None for r in report.results)
    assert report.settings["inputs"] == "x float32[1, 3, 16, 16]"


def test_bench_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    static = save_convolutions(tmp_path / "static.onnx", (1, 3, 16, 16))
    dynamic = save_convolutions(tmp_path / "dynamic.onnx", (1, 3, "height", "width"))
    with pytest.raises(UsageError, match="cannot be"):
        bench([f"{static}@null"], size=(8, 8), runs=1)
    with pytest.raises(UsageError, match="dynamic size"):
        bench([f"{dynamic}@null"], runs=1)
    with pytest.raises(UsageError, match="nothing to bench"):
        bench([])
    with pytest.raises(UsageError, match="not a budget"):
        bench([f"{static}@null"], runs=1, budget=["quick"])
    with pytest.raises(ArtifactError, match="does not exist"):
        bench([tmp_path / "absent.onnx"])


def test_bench_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    static = save_convolutions(tmp_path / "static.onnx", (1, 3, 16, 16))
    code = (
        "import sys; from edgedeploy.bench import bench; "
        f"bench([{str(static)!r}, {str(static) + '@null'!r}], runs=3); "
        "loaded = {m.split('.')[0] for m in sys.modules}; "
        "bad = {'torch', 'onnx', 'openvino_telemetry'} & loaded; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
