"""Simplifiers of other projects, each run in its own process with limits and then proved."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from edgedeploy.core.errors import ArtifactError, MissingDependencyError, UnknownNameError
from edgedeploy.export.graph_pass import GraphPass
from edgedeploy.export.prove.proof import Proof, Refuted
from edgedeploy.graphs.metadata import PROTOBUF_LIMIT
from edgedeploy.graphs.read import read_model
from edgedeploy.graphs.run import Feeds, NotRunnable
from edgedeploy.graphs.weights import bytes_of_all

TOOLS: Mapping[str, str] = {"onnxslim": "onnxslim", "onnxsim": "onnxsim", "onnxoptimizer": "onnxoptimizer"}
PROMISE = 1e-5  # relative, as for graph passes
SECONDS, MEGABYTES = 300, 16384
Command = Callable[[str, Path, Path, int], list[str]]


def child(tool: str, source: Path, out: Path, megabytes: int) -> list[str]:
    """The command that runs a tool in its own process."""
    return [sys.executable, "-m", "edgedeploy.export.simplifiers", tool, *map(str, (source, out, megabytes))]


def simplified(
    model: onnx.ModelProto,
    tool: str,
    *,
    verify: bool = True,
    seeds: int = 2,
    feeds: Sequence[Feeds] = (),
    seconds: float = SECONDS,
    megabytes: int = MEGABYTES,
    command: Command = child,
) -> tuple[onnx.ModelProto, str]:
    """(model after the tool, message); the unchanged model where the tool fails or breaks the promise.

    Raises UnknownNameError for a tool that is none of TOOLS, MissingDependencyError for one not installed.
    """
    if tool not in TOOLS:
        raise UnknownNameError("simplifier", tool, TOOLS)
    if command is child and find_spec(tool) is None:
        raise MissingDependencyError(f"{tool} is not installed", f"pip install {TOOLS[tool]}")
    if bytes_of_all(model) > PROTOBUF_LIMIT:
        return model, f"{tool} was not run: the model is larger than 2 GB"
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(model.SerializeToString())
        try:
            ended = subprocess.run(
                command(tool, source, out, megabytes), capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return model, f"{tool} was stopped after {seconds:g} s and left out"
        if ended.returncode:
            return model, f"{tool} failed and was left out: {_last_words(ended)}"
        try:
            candidate = read_model(out)
        except ArtifactError as error:
            return (
                model,
                f"{tool} was left out: what it wrote cannot be read: {str(error).split(': ', 1)[-1]}",
            )
    note = f"{tool}: {len(model.graph.node)} to {len(candidate.graph.node)} nodes"
    if not verify:
        return candidate, note
    try:
        verdict = Proof.of(model, seeds, feeds).advance(candidate, _as_pass(tool), None)
    except NotRunnable as reason:
        return model, f"{tool} was left out: nothing proves its result: {reason}"
    except Refuted as reason:
        return model, f"{tool} was reverted: {reason}"
    return candidate, f"{note}, max error {verdict.error:.1e} of max |y|"


def _as_pass(tool: str) -> GraphPass:
    def rewrite(_: object) -> int:
        return 0

    def cases(_: np.random.Generator) -> list[onnx.ModelProto]:
        return []

    return GraphPass(rewrite, tool, PROMISE, cases)


def _last_words(ended: subprocess.CompletedProcess[bytes]) -> str:
    if ended.returncode < 0:
        return f"it crashed (signal {-ended.returncode})"
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {ended.returncode}"
