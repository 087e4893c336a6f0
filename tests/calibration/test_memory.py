"""The memory budget is kept: peak resident memory is measured against it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.calibration.collect.memory_plan import plan_memory
from tests.conftest import ROOT

SIZE, CHANNELS, LAYERS = (256, 512), 16, 12
TENSOR = 4 * CHANNELS * SIZE[0] * SIZE[1]  # 8 MB
NAMES = [f"r{index}" for index in range(LAYERS)]


def chain() -> onnx.ModelProto:
    """Convolutions of one size, each with its ReLU."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(LAYERS):
        before, inputs = (f"r{index - 1}", CHANNELS) if index else ("x", 3)
        w = rng.standard_normal((CHANNELS, inputs, 3, 3)).astype(np.float32) * 0.1
        weights.append(numpy_helper.from_array(w, f"w{index}"))
        nodes.append(helper.make_node("Conv", [before, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
    shapes = ("x", [1, 3, *SIZE]), (NAMES[-1], [1, CHANNELS, *SIZE])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


WORKER = """
import json, sys
from pathlib import Path
import numpy as np
from edgedeploy.calibration.collect.collect import collect
from tests.calibration.test_memory import NAMES, SIZE, chain
model = chain()
x = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)
collect(model, NAMES[:1], lambda: [{"x": x}], histograms=True)  # imports and threads
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
rows = []
for memory_mb in map(int, sys.argv[1:]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS:")
    found = collect(model, NAMES, lambda: [{"x": x}] * 6, histograms=True, memory_mb=memory_mb)
    rows.append((found.passes, status("VmHWM:") - before, found.note))
print(json.dumps(rows))
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are reset through Linux's /proc"
)
def test_peak_memory_stays_within_the_budget() -> None:
    budgets = [80, 140, 256]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *map(str, budgets)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    rows = json.loads(done.stdout)
    passes = [row[0] for row in rows]
    assert passes[0] > passes[1] > passes[2] == 1
    for budget, (_, growth, note) in zip(budgets, rows, strict=True):
        assert growth < budget, rows
        assert not note
    assert rows[2][1] > LAYERS * TENSOR / 2**20, "nothing was measured"


def test_a_model_that_exceeds_the_budget_alone_is_told_of() -> None:
    model = chain()
    feeds = {"x": np.zeros((1, 3, *SIZE), np.float32)}
    plan = plan_memory(model, NAMES, feeds, 32 << 20)
    assert len(plan.groups) == LAYERS
    assert "more than its budget of 32 MB" in plan.note(32 << 20)
    roomy = plan_memory(model, NAMES, feeds, 1 << 30)
    assert roomy.groups == [NAMES]
    assert roomy.note(1 << 30) == ""
    assert roomy.most == 2 * LAYERS * TENSOR
