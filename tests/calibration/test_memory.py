"""The memory budget is kept: peak resident memory is measured against it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.calibration.collect.memory_plan import plan_memory
from tests.conftest import ROOT
from tests.support.calibration_nets import CHAIN_NAMES, CHANNELS, LAYERS, SIZE, chain

TENSOR = 4 * CHANNELS * SIZE[0] * SIZE[1]  # 8 MB


WORKER = """
import json, sys
from pathlib import Path
import numpy as np
from edgedeploy.calibration.collect.collect import collect
from tests.support.calibration_nets import CHAIN_NAMES, SIZE, chain
model = chain()
x = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)
collect(model, CHAIN_NAMES[:1], lambda: [{"x": x}], histograms=True)  # imports and threads
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
rows = []
for memory_mb in map(int, sys.argv[1:]):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS:")
    found = collect(model, CHAIN_NAMES, lambda: [{"x": x}] * 6, histograms=True, memory_mb=memory_mb)
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
    plan = plan_memory(model, CHAIN_NAMES, feeds, 32 << 20)
    assert len(plan.groups) == LAYERS
    assert "more than its budget of 32 MB" in plan.note(32 << 20)
    roomy = plan_memory(model, CHAIN_NAMES, feeds, 1 << 30)
    assert roomy.groups == [CHAIN_NAMES]
    assert roomy.note(1 << 30) == ""
    assert roomy.most == 2 * LAYERS * TENSOR
