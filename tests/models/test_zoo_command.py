"""`python -m benchmarks.zoo`: real rows, kept and taken up again, and failures that are rows too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import survey, zoo
from benchmarks.zoo_row import error, norms_left
from edgedeploy.export.samples import text_model
from edgedeploy.models import MODELS

SOUND: dict[str, Any] = {
    "model": "b", "state": "s", "failed": "", "input": [1, 3, 8, 8],
    "params": 1234567, "params_deploy": 1234000, "macs": 2_500_000_000, "nodes": [12, 9],
    "norms": {"BatchNormalization: it follows a sum": 2},
    "error_fp32": 2e-6, "error_fp16": 3e-3, "notes": ["random weights"],
    "engines": {"sm86": {"bytes": 1_500_000, "kernels": 7}, "sm120": {"bytes": 1_000_000, "kernels": 8}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a model finds this tree, wherever the tests were started."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(survey.ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
def test_a_real_row_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    arguments = ["--models", "espcn_x2", "--rows", str(rows), "--out", str(tmp_path / "zoo.md")]
    assert zoo.main(arguments) == 0
    (row,) = survey.read_rows(rows).values()
    assert (row["params"], row["params_deploy"], row["macs"]) == (21284, 21284, 360 * 640 * 21184)
    assert row["nodes"] == [6, 6]
    assert row["norms"] == {}
    assert 0 < row["error_fp32"] <= 1e-5
    assert 1e-5 < row["error_fp16"] <= 1e-2
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        assert all("tensorrt-rtx" in engine["failed"] for engine in row["engines"].values())
    else:
        assert all(engine["bytes"] > 10_000 and engine["kernels"] for engine in row["engines"].values())
    assert not (tmp_path / "zoo.md").exists()  # the document is of all models or none

    def forbidden(name: str, timeout: float, module: str) -> survey.Row:
        raise AssertionError(f"{name} was measured again")

    monkeypatch.setattr(survey, "in_process", forbidden)
    rows.write_text(rows.read_text() + '{"model": "espcn_x3", "sta')  # stopped while writing
    assert zoo.main(arguments) == 0
    monkeypatch.setattr(survey.Survey, "state", lambda _: "of other code")
    with pytest.raises(AssertionError, match="espcn_x2 was measured again"):
        zoo.main(arguments)


def test_a_crash_and_a_timeout_are_rows() -> None:
    row = survey.in_process("no_such_model", 300, "benchmarks.zoo")
    assert row["failed"] == "its process ended with exit code 1"
    row = survey.in_process("espcn_x2", 0.01, "benchmarks.zoo")
    assert row["failed"].startswith("took longer than")
    assert zoo.problems(row)


def test_failures_are_measured_again_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = tmp_path / "rows.jsonl", []

    def failing(name: str, timeout: float, module: str) -> survey.Row:
        asked.append(name)
        return {"model": name, "failed": "it did"}

    monkeypatch.setattr(survey, "in_process", failing)
    arguments = ["--models", "espcn_*", "--rows", str(rows)]
    assert zoo.main(arguments) == 1
    assert zoo.main(arguments) == 1
    assert asked == ["espcn_x2", "espcn_x3", "espcn_x4"]  # the smallest first, and once
    assert zoo.main([*arguments, "--again"]) == 1
    assert len(asked) == 6
    assert len(survey.read_rows(rows)) == 3


def test_a_row_after_a_torn_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    survey.append(path, SOUND)
    path.write_text(path.read_text() + '{"model": "to')
    survey.append(path, {**SOUND, "model": "c"})
    assert {model for model, _ in survey.read_rows(path)} == {"b", "c"}
    path.write_text(path.read_text() + '[1]\n"text"\n{"model": "d"}\n')
    assert len(survey.read_rows(path)) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failed": "no export"}, "no export"),
        ({"error_fp32": 2e-4}, "error_fp32 is 2.0e-04, more than 1e-04"),
        ({"error_fp16": float("nan")}, "error_fp16 is nan"),
        ({"notes": ["fold-pad was reverted: 0.1 off"]}, "fold-pad was reverted"),
        ({"engines": {"sm86": {"failed": "no operator X"}}}, "sm86: no operator X"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_the_document(change: dict[str, Any], said: str) -> None:
    assert zoo.problems(SOUND) == []
    wrong = {**SOUND, **change}
    assert said in zoo.problems(wrong)[0]
    text = zoo.document([wrong], 1)
    assert f"* `b`: {zoo.problems(wrong)[0]}" in text.partition("## What fails")[2]


def test_the_document_has_every_figure() -> None:
    text = zoo.document([{"model": "a", "state": "s", "failed": "its process ended with signal 9"}, SOUND], 2)
    figures = "2.500 | 12 → 9 | 2 | 2.0e-06 | 3.0e-03 | 7, 1.5 MB | 8, 1.0 MB |"
    assert f"| `b` | 1x3x8x8 | 1,234,567 | 1,234,000 | {figures}\n" in text
    assert "| `a` | - | - | - | - | - | - | - | - | - | - |" in text
    assert "* BatchNormalization: it follows a sum: `b` 2." in text
    assert "* `a`: its process ended with signal 9" in text
    assert "\n    python -m benchmarks.zoo\n" in text
    words = " ".join(text.split())
    assert all(f"{name} {found}" in words for name, found in zoo.SURVEY.versions().items())
    assert max(map(len, text.partition("| model")[0].splitlines()[4:])) <= 120


def test_all_models_are_there_smallest_first() -> None:
    names = survey.by_size()
    assert sorted(names) == MODELS.names()
    assert names.index("espcn_x2") < names.index("ddrnet_23_slim")
    assert names.index("ddrnet_23_slim") < names.index("ddrnet_39")


def test_norms_are_counted_with_the_reason_that_the_pass_gives() -> None:
    one, zero = torch.ones(3).numpy(), torch.zeros(3).numpy()
    model = text_model(
        "float[1,3,4,4] x",
        "y",
        "a = BatchNormalization(x, one, zero, zero, one) \n b = Relu(a) \n y = LayerNormalization(b, scale)",
        {"one": one, "zero": zero, "scale": torch.ones(4).numpy()},
    )
    assert norms_left(model) == {
        "BatchNormalization: it stands beside no convolution or matrix product": 1,
        "LayerNormalization: its statistics are those of the input": 1,
    }


def test_the_error_is_the_largest_relative_to_the_largest() -> None:
    model = text_model("float[1,4] x", "y", "y = Mul(x, two)", {"two": torch.tensor(2.0).numpy()})
    inputs = torch.tensor([[[1.0, 2, 3, 4]], [[1.0, 2, 3, 5]]])
    truth = [{"y": (2 * x).numpy()} for x in inputs]
    assert error(model, inputs, truth) == 0
    truth[1]["y"] = truth[1]["y"] + 0.1
    assert error(model, inputs, truth) == pytest.approx(0.1 / 10.1, rel=1e-5)
