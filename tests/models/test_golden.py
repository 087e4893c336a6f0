"""Operators of every zoo model after each phase; `make golden` rewrites the files, review reads the diff."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from edgedeploy.core.recipe import CaptureOptions, OptimizeOptions
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.half import to_fp16
from edgedeploy.export.optimize import optimize_artifact
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.settle import settle
from tests.conftest import ROOT
from tests.support.zoo import FEWER_BLOCKS, models_under_test, one_of_each_family, small_options

GOLDEN = ROOT / "tests" / "golden"


def histogram(path: Path) -> dict[str, int]:
    return dict(sorted(Counter(node.op_type for node in onnx.load(path).graph.node).items()))


def after_each_phase(network: nn.Module | None, name: str, folder: Path) -> dict[str, dict[str, int]]:
    """Operators of the model, or of another network of its family, each phase proved as it is done."""
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
        network = settle(
            network or create_model(name, **options), torch.rand(2, info.input_shape[1], height, width)
        )
    captured = capture(network, small, folder / "captured.onnx", info=info, name=name)
    folded = optimize_artifact(captured, OptimizeOptions(seeds=1), folder / "folded.onnx")
    half = to_fp16(folded, OptimizeOptions(seeds=1), folder / "half.onnx")
    return {
        "capture": histogram(captured.path),
        "optimize": histogram(folded.path),
        "fp16": histogram(half.path),
    }


@pytest.mark.parametrize("name", one_of_each_family(models_under_test()))
def test_operators_after_each_phase(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    found = after_each_phase(None, name, tmp_path)
    file = GOLDEN / f"{name}.json"
    if pytestconfig.getoption("--golden"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert file.exists(), "no golden file: make golden"
    assert found == json.loads(file.read_text())


@pytest.mark.parametrize("name", FEWER_BLOCKS)
def test_fewer_blocks_have_the_same_operators(name: str, tmp_path: Path) -> None:
    """The families whose smallest model is slow: each operator of its golden file, and no other."""
    torch.manual_seed(0)
    found = after_each_phase(FEWER_BLOCKS[name](), name, tmp_path)
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert {phase: set(ops) for phase, ops in found.items()} == {
        phase: set(ops) for phase, ops in golden.items()
    }


def test_golden_files_are_of_models_that_exist() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} <= set(MODELS.names())
