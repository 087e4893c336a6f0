"""Run the command in this process, as a shell would."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

from edgedeploy.cli import app
from tests.support.commands import Cli, Outcome


@pytest.fixture
def cli(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """`cli("build", "x.onnx")` in a cache of its own; lines are not wrapped."""
    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["edgedeploy", *map(str, words)])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """The smallest model: one Relu on a 1x3x8x8 image."""
    path = tmp_path / "relu.onnx"
    text = (
        '<ir_version: 8, opset_import: ["" : 19]> g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }'
    )
    onnx.save(onnx.parser.parse_model(text), path)
    return path
