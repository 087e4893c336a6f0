"""Details of an artifact: typed for code, and in JSON what was noted and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgedeploy.core.details import CalibrationDetails, Details, EngineDetails
from edgedeploy.core.spec import Artifact

# As releases before typed details wrote them, one key of each kind.
EARLIER = {
    "weights": "random",
    "surgery": {"nodes_before": 9, "nodes_after": 4, "verified": True, "problems": []},
    "adapted": {"ops": ["DeformConv"], "problems": ["DeformConv stays"]},
    "calibration": {"excluded": [{"node": "n", "op": "Add", "reason": "no int8"}], "problems": []},
    "split": {"at": ["r"], "head": "a.onnx", "tail": "b.onnx"},
    "engine": {"kernels": 3, "mb_moved": None, "convolutions": {"Half->Half": 2}},
    "considered": [{"backend": "openvino", "parity": "not checked: no onnxruntime", "verdict": "kept"}],
    "guard": {
        "sentence": "int8 ships",
        "reference": {"psnr_y": 31.5},
        "candidates": [{"name": "int8", "interval": [1.0, 2.0], "scores": {"psnr_y": 31.0}, "missed": []}],
        "least_saved": [{"layer": "a", "milliseconds": 0.01}],
    },
    "flags": {"strongly_typed": True},
    "openvino_inference_precision": "bf16",
}


def artifact(details: Details) -> Artifact:
    """An artifact of these details, of no file."""
    return Artifact(path=Path("m.onnx"), kind="onnx", model="m", inputs=(), outputs=(), details=details)


def test_details_of_earlier_releases_read_and_write_unchanged() -> None:
    details = Details.model_validate(EARLIER)
    assert json.loads(artifact(details).to_json())["details"] == EARLIER
    assert details.guard.candidates[0].scores == {"psnr_y": 31.0}
    assert details.own("openvino_inference_precision") == "bf16"


def test_only_what_was_noted_is_written() -> None:
    assert json.loads(artifact(Details()).to_json())["details"] == {}
    assert Details(engine=EngineDetails(kernels=1)).model_dump() == {"engine": {"kernels": 1}}
    assert Details(engine=EngineDetails(mb_moved=None)).model_dump() == {"engine": {"mb_moved": None}}


def test_a_newer_note_wins_and_the_others_stay() -> None:
    older = Details.model_validate({"source": "net", "cpu": "x86-avx2", "new_key": 1})
    newer = Details.model_validate({"cpu": "arm64", "another": [2]})
    assert (older | newer).model_dump() == {
        "source": "net",
        "cpu": "arm64",
        "new_key": 1,
        "another": [2],
    }
    assert older.cpu == "x86-avx2"


def test_a_record_that_no_step_made_reads_as_an_empty_one() -> None:
    assert not Details().calibration.random
    assert Details().guard.candidates == ()
    assert Details().own("provider") is None


def test_details_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Details().calibration.random = True  # type: ignore[misc]
    assert CalibrationDetails().random is False
