"""Every number format that a target runs can be asked for by name, and is what is built."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgedeploy.backend import BACKENDS
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import THIS_CPU, load_target
from tests.cli.conftest import Cli
from tests.support.qdq_nets import Net


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """Convolutions of channels enough for every rule, and a product by a matrix of whole blocks."""
    net = Net(1, 32, 8, 8)
    first = net.op("Relu", "relu", net.conv("first", "x", 32, 64))
    net.op("GlobalAveragePool", "pool", net.op("Relu", "relu2", net.conv("second", first, 64, 64)))
    net.op("Flatten", "flat", "pool")
    net.op("Gemm", "y", "flat", net.constant("w", 64, 64), net.constant("b", 64), transB=1)
    model = net.model("y")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_a_cpu_runs_what_it_was_asked_for(precision: str, stranger: Path, tmp_path: Path, cli: Cli) -> None:
    if precision not in load_target(THIS_CPU).precisions:
        pytest.skip(f"this CPU has no {precision}")
    noise = ("--random-data", 4) * (precision in ("int8", "int4"))
    out = tmp_path / "built"
    outcome = cli("build", stranger, "--precision", precision, *noise, "-o", out)
    assert outcome.code == 0, outcome.err
    assert Artifact.load(out).precision == precision
    timed = cli("bench", out, "--json", "--runs", 2)
    assert timed.code == 0, timed.err
    assert json.loads(timed.out)


@pytest.mark.parametrize(("precision", "type_"), [("fp8", "FP8"), ("int8", "Int8")])
def test_an_ada_engine_computes_in_eight_bits(
    precision: str, type_: str, stranger: Path, tmp_path: Path, cli: Cli
) -> None:
    if BACKENDS.get("tensorrt-rtx").why_not():
        pytest.skip("needs tensorrt-rtx")
    out = tmp_path / "engine"
    words = ("--precision", precision, "--random-data", 4, "--target", "rtx-4090", "-o", out)
    outcome = cli("build", stranger, *words)
    assert outcome.code == 0, outcome.err
    built = Artifact.load(out)
    assert built.precision == precision
    assert any(type_ in kernel for kernel in built.details.engine.convolutions)
