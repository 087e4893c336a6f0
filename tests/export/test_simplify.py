"""Other projects' simplifiers: proved like a pass, refused where they err, harmless where they crash."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.core.errors import MissingDependencyError, UnknownNameError
from edgedeploy.export import simplify
from edgedeploy.export.samples import floats, text_model
from edgedeploy.export.simplify import TOOLS, simplified

LOAD = "import onnx, sys; model = onnx.load(sys.argv[1]); "
SAVE = "; onnx.save(model, sys.argv[2])"


def acting(code: str) -> simplify.Command:
    """A tool in a real process of its own that does just this."""

    def command(tool: str, source: Path, out: Path, megabytes: int) -> list[str]:
        return [sys.executable, "-c", code, str(source), str(out)]

    return command


@pytest.fixture
def model(rng: np.random.Generator) -> onnx.ModelProto:
    body = "c = Conv(x, w) \n i = Identity(c) \n y = Relu(i)"
    return text_model("float[1,3,8,6] x", "y", body, {"w": floats(rng, 4, 3, 3, 3)})


def test_a_right_result_is_taken(model: onnx.ModelProto) -> None:
    code = LOAD + "del model.graph.node[1]; model.graph.node[1].input[0] = 'c'" + SAVE
    result, said = simplified(model, "onnxslim", command=acting(code))
    assert [node.op_type for node in result.graph.node] == ["Conv", "Relu"]
    assert "3 to 2 nodes" in said


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (LOAD + "model.graph.node[2].op_type = 'Neg'" + SAVE, "was reverted: an output differs by"),
        (LOAD + "model.graph.output[0].name = 'i'" + SAVE, "was reverted: the outputs are i"),
        ("import os; os.kill(os.getpid(), 11)", "it crashed (signal 11)"),
        ("raise ValueError('no such pattern')", "failed and was left out: ValueError: no such pattern"),
        ("import time; time.sleep(60)", "was stopped after 2 s"),
        ("pass", "what it wrote cannot be read"),
        ("import sys; open(sys.argv[2], 'wb').write(b'half')", "what it wrote cannot be read"),
    ],
)
def test_whatever_else_happens_the_model_stays_as_it_was(
    code: str, says: str, model: onnx.ModelProto
) -> None:
    result, said = simplified(model, "onnxslim", command=acting(code), seconds=2)
    assert result is model
    assert says in said
    assert "\n" not in said


def test_memory_is_bounded(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child that really runs the tools, with a tool that wants 4 GB of 2."""
    (tmp_path / "onnxslim.py").write_text("def slim(model):\n    return bytearray(4 << 30)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(simplify.__file__).parents[2]}")
    monkeypatch.setattr(simplify, "find_spec", lambda name: name)
    result, said = simplified(model, "onnxslim", megabytes=2048)
    assert result is model
    assert "MemoryError" in said


def test_unknown_and_missing_tools_are_named(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="onnxslin") as unknown:
        simplified(model, "onnxslin")
    assert "onnxslim" in unknown.value.hint
    monkeypatch.setattr(simplify, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as missing:
        simplified(model, "onnxsim")
    assert missing.value.hint == "pip install onnxsim"


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tools_themselves(tool: str, model: onnx.ModelProto) -> None:
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    result, said = simplified(model, tool)
    assert [node.op_type for node in result.graph.node] == ["Conv", "Relu"], said
