"""The guard on a network that INT8 breaks: float ships and says why, a mix without the culprit is found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from edgedeploy.backend import BACKENDS
from edgedeploy.core.accuracy import parse_accuracy
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import BudgetError, CalibrationError, UsageError
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.core.target import Figures, load_target
from edgedeploy.guard.candidates import Builder, Built, Status, built_of
from edgedeploy.guard.choice import decide
from edgedeploy.guard.mixing import float_form, mixes_for_accuracy
from edgedeploy.guard.score import make_scorer
from edgedeploy.guard.split import split
from edgedeploy.pipeline import run
from tests.support.deployments import Listener
from tests.support.qdq_nets import Net

pytestmark = pytest.mark.skipif(bool(BACKENDS.get("openvino").why_not()), reason="needs openvino")
BUDGET = parse_accuracy(["agreement>=0.97"])


def save_breaking(path: Path, *outputs: str) -> Path:
    """Fifth powers before `b` and a squash after it: small values decide, and one scale has none for them.

    INT8 ruins output `d`; output `easy` it keeps.
    """
    net = Net(1, 3, 48, 48)
    x = net.op("Mul", "far", net.op("Add", "shifted", "x", net.constant("shift", 1)), net.constant("gain", 1))
    net.weights["shift"][:], net.weights["gain"][:] = -0.5, 4.0
    power = a = net.conv("a", x, 3, 16)
    for number in range(4):
        power = net.op("Mul", f"power_{number}", power, a)
    b = net.conv("b", power, 16, 16, kernel=1)
    net.weights["b_b"][:] = 0
    squash = net.op(
        "Div", "squash", b, net.op("Add", "one", net.op("Abs", "abs", b), net.constant("unit", 1))
    )
    net.weights["unit"][:] = 0.05
    c = net.op("Relu", "r", net.conv("c", squash, 16, 16))
    net.conv("d", c, 16, 16)
    if "easy" in outputs:
        net.conv("easy", a, 16, 8)
    model = net.model(*outputs)
    del model.metadata_props[:]  # a file of somebody else's
    onnx.save(model, path)
    return path


@pytest.fixture
def breaks(tmp_path: Path) -> Path:
    return save_breaking(tmp_path / "breaks.onnx", "d")


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        picture = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (48, 48))
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


def job(source: Path, data: Path | None, *edits: str, target: str = "cpu") -> Job:
    small = ("calibration.method=minmax", "guard.seconds=0.2", "guard.scored=4")
    recipe = Recipe().edited(["precision=auto", *small, *edits])
    return Job(str(source), recipe, load_target(target), data)


def by_name(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {entry.name: entry.model_dump(mode="json") for entry in artifact.details.guard.candidates}


def test_int8_that_breaks_does_not_ship_and_says_why(breaks: Path, photos: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    built = run(job(breaks, photos, "guard.mixed=false"), Listener(), cache)
    found = by_name(built)
    assert built.precision in ("fp32", "bf16")
    assert not found["int8 in openvino"]["within"]
    assert "agreement" in found["int8 in openvino"]["missed"][0]
    sentence = built.details.guard.sentence
    assert f"{built.precision} in {built.backend} ships, not int8 in " in sentence
    assert "it loses too much" in sentence
    assert "b (" in sentence, "the layer that costs most is named"
    assert built.details.guard.layers[0].layer == "b"
    assert {entry["scored_in"] for entry in found.values() if entry["scores"]} <= {"openvino", "onnxruntime"}
    assert found["fp32 in openvino"]["scores"]["agreement"] > 0.9999
    assert built.details.guard.calibrated_on + built.details.guard.scored_on <= 12
    assert Artifact.load(built.path) == built
    assert not list(built.path.parent.glob(".guard-*")), "nothing is left over"


def test_int8_that_ruins_the_second_output_does_not_ship(photos: Path, tmp_path: Path) -> None:
    source = save_breaking(tmp_path / "two.onnx", "easy", "d")
    built = run(job(source, photos, "guard.mixed=false"), Listener(), Cache(tmp_path / "cache"))
    assert built.precision in ("fp32", "bf16")
    int8 = by_name(built)["int8 in openvino"]
    assert not int8["within"]
    assert int8["scores"]["agreement"] < 0.9
    assert int8["scores"]["sqnr"] < 20


@pytest.fixture
def builder(breaks: Path, photos: Path, tmp_path: Path) -> Builder:
    artifact = run(job(breaks, photos), Listener(), Cache(tmp_path / "cache"), until="replace")
    parts = split(photos, tmp_path / "parts", 6, 4)
    here = job(breaks, parts.calibration)
    scorer = make_scorer(artifact, parts.scored, here)
    assert not scorer.labeled
    (tmp_path / "built").mkdir()
    statistics = tmp_path / "statistics"
    return Builder(artifact, here, tmp_path / "built", statistics, lambda *_: None, scorer, BUDGET)


def built(builder: Builder, precision: Precision) -> Built:
    """A candidate of which only noise is known: times of so small a network are chance."""
    made = builder.lowered_to(precision, "openvino", precision)
    assert isinstance(made, Built)
    made.not_here = "no such device"
    made.estimated_ms = 1.0 if precision == "int8" else 1000.0  # any mix is affordable
    return made


def test_a_mix_without_the_culprit_keeps_the_budget(builder: Builder) -> None:
    fp32, int8 = built(builder, "fp32"), built(builder, "int8")
    assert int8.missed
    mixing = mixes_for_accuracy(int8, fp32, builder)
    best = [candidate for candidate in built_of(mixing.tried) if not candidate.missed]
    assert best
    assert "b" in best[-1].kept_float
    assert "dB at the output" in best[-1].kept_float["b"]
    assert best[-1].scores["agreement"] >= 0.97 > int8.scores["agreement"]
    kinds = [node.op_type for node in onnx.load(best[-1].lowered.path).graph.node]
    assert "QuantizeLinear" in kinds, "the others are still in INT8"


def test_layers_that_int8_hardly_speeds_up_go_to_float_at_once(builder: Builder) -> None:
    # A roofline of multiplications alone, the same on every machine: `b` is 1x1, `c` and `d` are 3x3.
    figures = Figures(fp32_tflops=0.001, int8_tops=0.004, memory_gb_per_s=1e6)
    target = builder.job.target.model_copy(update={"figures": figures})
    builder = dataclasses.replace(builder, job=dataclasses.replace(builder.job, target=target))
    fp32, int8 = built(builder, "fp32"), built(builder, "int8")
    mixing = mixes_for_accuracy(int8, fp32, builder, [fp32, int8])
    assert 0 < mixing.savings["b"] < 0.2 * mixing.savings["c"]
    first = built_of(mixing.tried)[0]
    assert "too little time" in first.kept_float["b"]
    assert not {"c", "d"} <= set(first.kept_float), "some are left in INT8"


def test_layers_are_compared_with_what_they_become_in_the_mix() -> None:
    """In OpenVINO float layers of a mix run in bfloat16 where that is faster: INT8 then saves less."""
    times: list[tuple[Precision, float]] = [("fp32", 10.0), ("bf16", 6.0), ("int8", 5.0)]
    forms = [candidate(precision, precision, time) for precision, time in times]
    foreign = candidate("fp32 in onnxruntime", "fp32", 4.0)
    foreign.backend = "onnxruntime"
    int8, everything = forms[2], [foreign, *forms]
    assert float_form(int8, foreign, everything, exact=False) is forms[1]
    assert float_form(int8, foreign, everything, exact=True) is forms[0]
    assert float_form(int8, foreign, [foreign], exact=True) is foreign
    assert float_form(foreign, forms[0], everything, exact=False) is forms[0], "it rounds nothing"


def test_a_precision_that_fails_is_refused_and_named(
    breaks: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr("edgedeploy.calibration.quantize", fails)
    shipped = run(job(breaks, photos), Listener(), Cache(tmp_path / "cache"))
    found = by_name(shipped)
    assert shipped.precision in ("fp32", "bf16")
    assert found["int8 in openvino"]["status"] == "refused"
    assert "ValueError: operands could not be broadcast" in found["int8 in openvino"]["verdict"]
    assert "it is unavailable (ValueError" in shipped.details.guard.sentence


def test_nothing_within_the_budget_is_exit_4_and_tells_what_came_closest(
    breaks: Path, photos: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    with pytest.raises(BudgetError, match="came closest") as caught:
        run(job(breaks, photos, 'guard.budget=["p50<0.000001ms"]', "guard.mixed=false"), Listener(), cache)
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "cache").rglob(".making-*"))


def test_words_that_do_not_fit_are_refused_at_once(breaks: Path, photos: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with pytest.raises(CalibrationError, match="auto needs data"):
        run(job(breaks, None), Listener(), cache)
    with pytest.raises(UsageError, match="decided by building"):
        run(job(breaks, photos), Listener(), cache, until="lower")
    with pytest.raises(UsageError, match="needs labels"):
        run(job(breaks, photos, 'guard.budget=["miou>=-0.3"]'), Listener(), cache)
    with pytest.raises(UsageError, match="not an accuracy budget"):
        run(job(breaks, photos, 'guard.budget=["miou"]'), Listener(), cache)


def test_without_the_device_nothing_is_timed(photos: Path, tmp_path: Path) -> None:
    if BACKENDS.get("tensorrt-rtx").why_not() or not BACKENDS.get("tensorrt").why_not():
        pytest.skip("needs tensorrt-rtx and no GPU")
    net = Net(1, 3, 48, 48)
    b = net.conv("b", net.op("Relu", "r", net.conv("a", "x", 3, 32)), 32, 32)
    net.conv("c", net.op("Relu", "s", b), 32, 32)
    model = net.model("c")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    edits = ('guard.budget=["agreement>=0.5"]', "guard.mixed=false")
    words = job(tmp_path / "plain.onnx", photos, *edits, target="rtx-4090")
    built = run(words, Listener(), Cache(tmp_path / "cache"))
    found = by_name(built)
    assert (built.precision, built.kind) == ("fp16", "engine")
    assert [entry["precision"] for entry in found.values()] == ["fp32", "fp16", "fp8", "int8"]
    assert not any(entry["status"] == "refused" for entry in found.values())
    assert all(entry["interval"] is None and entry["estimated"] for entry in found.values())
    assert all(entry["scored_in"] == "onnxruntime" for entry in found.values())
    assert all(0 < entry["milliseconds"] < 1 for entry in found.values())
    assert "TensorRT-RTX runs INT8 convolutions with FP32 outputs" in built.details.guard.sentence
    assert Artifact.load(built.path) == built


def candidate(name: str, precision: Precision, milliseconds: float, *missed: str) -> Built:
    artifact = Artifact(path=Path("x.onnx"), kind="onnx", model="m", inputs=(), outputs=())
    made = Built(name, precision, "openvino", artifact, artifact, missed=list(missed))
    made.timing = type("Timing", (), {"p50_ms": milliseconds})()
    return made


@pytest.mark.parametrize(
    ("times", "missed", "winner", "says"),
    [
        ((10.0, 4.0), (), "int8", "2.50 times as fast as fp32"),
        ((10.0, 9.9), (), "fp32", "within the noise"),
        ((10.0, 12.0), (), "fp32", "takes 1.20 times as long"),
        ((10.0, 4.0), ("miou -2.00 points (budget miou>=-0.3)",), "fp32", "loses too much, miou -2.00"),
    ],
)
def test_the_fastest_within_the_budget_ships(
    times: tuple[float, float], missed: tuple[str, ...], winner: str, says: str
) -> None:
    both = [candidate("fp32", "fp32", times[0]), candidate("int8", "int8", times[1], *missed)]
    chosen, sentence = decide(both, BUDGET, load_target("cpu"), None)
    assert chosen.name == winner
    assert says in sentence
    assert [c.status is Status.SHIPS for c in both] == [c.name == winner for c in both]
    assert (both[1].status is Status.OVER_BUDGET) == bool(missed)


def test_report_is_json(breaks: Path, photos: Path, tmp_path: Path) -> None:
    built = run(job(breaks, photos, "guard.mixed=false"), Listener(), Cache(tmp_path / "cache"))
    json.dumps(built.details.guard.model_dump(mode="json"), allow_nan=False)
