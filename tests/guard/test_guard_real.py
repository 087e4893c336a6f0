"""The guard on ESPCN x3 with real weights and pictures: T91 calibrates, Set5 decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedeploy.backend import BACKENDS
from edgedeploy.core.cache import Cache
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import run
from tests.support.deployments import Listener


@pytest.mark.slow
def test_espcn_ships_what_keeps_its_decibels(shared: Path, tmp_path: Path) -> None:
    if BACKENDS.get("openvino").why_not():
        pytest.skip("needs openvino")
    small = ("capture.height=90", "capture.width=160", "calibration.limit=8", "guard.seconds=0.2")
    recipe = Recipe().edited(["precision=auto", 'guard.budget=["psnr>=-0.1"]', *small])
    data = shared / "data" / "sr"
    job = Job("espcn_x3", recipe, load_target("cpu"), data / "T91", labeled=data / "Set5")
    listener = Listener()
    built = run(job, listener, Cache(tmp_path))
    found = {entry.name: entry.model_dump(mode="json") for entry in built.details.guard.candidates}
    reference = built.details.guard.reference["psnr_y"]
    assert 32.5 < reference < 33.5, "what the card of the weights says, on all of Set5"
    shipped = next(entry for entry in found.values() if entry["verdict"] == "ships")
    assert reference - shipped["scores"]["psnr_y"] <= 0.1
    fastest = min(e["milliseconds"] for e in found.values() if e["within"])
    assert shipped["milliseconds"] * 0.98 <= fastest
    assert 0.01 < reference - found["int8 in openvino"]["scores"]["psnr_y"] < 0.2, "INT8 was really computed"
    assert found["fp32 in openvino"]["scores"]["psnr_y"] == pytest.approx(reference, abs=0.01)
    assert built.details.guard.sentence in listener.notes
