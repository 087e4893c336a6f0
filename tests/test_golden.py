"""Operators of every zoo model after each phase; `make golden` rewrites the files, review reads the diff."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from edgedeploy.core.recipe import CaptureOptions, SurgeryOptions
from edgedeploy.export.capture import capture
from edgedeploy.export.surgery import operate, to_fp16
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.settle import settle
from tests.conftest import ROOT
from tests.zoo import models_under_test, small_options

GOLDEN = ROOT / "tests" / "golden"


def histogram(path: Path) -> dict[str, int]:
    return dict(sorted(Counter(node.op_type for node in onnx.load(path).graph.node).items()))


@pytest.mark.slow
@pytest.mark.parametrize("name", models_under_test())
def test_operators_after_each_phase(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    options = small_options(MODELS.get(name))
    info = MODELS.get(name).variant(**options)
    # The graph does not depend on the size, and a small one is proved sooner.
    multiple = max(info.size_multiple, 32)
    small = CaptureOptions(height=multiple * 2, width=multiple * 3, seeds=1)
    if info.fixed_size:
        small = CaptureOptions(seeds=1)
    height, width = info.input_shape[2:] if info.fixed_size else (multiple * 2, multiple * 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Fresh norms shift by 0, which moves through everything: only trained ones show what must stay.
        network = settle(create_model(name, **options), torch.rand(2, info.input_shape[1], height, width))
    captured = capture(network, small, tmp_path / "captured.onnx", info=info, name=name)
    folded = operate(captured, SurgeryOptions(seeds=1), tmp_path / "folded.onnx")
    half = to_fp16(folded, SurgeryOptions(seeds=1), tmp_path / "half.onnx")
    found = {
        "capture": histogram(captured.path),
        "optimise": histogram(folded.path),
        "fp16": histogram(half.path),
    }
    file = GOLDEN / f"{name}.json"
    if pytestconfig.getoption("--golden"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert file.exists(), "no golden file: make golden"
    assert found == json.loads(file.read_text())


def test_golden_files_are_of_models_that_exist() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} <= set(MODELS.names())
