"""The one way to rewrite an artifact: what is required is applied or refused, and the report survives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.core.errors import ParityError, UsageError
from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.optimize import optimize_artifact
from edgedeploy.export.replace import replace_operators
from edgedeploy.export.report import PassReport
from edgedeploy.export.rewrite import Policy, rewrite
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import Graph, Node

BODY = "c = Conv(x, w) \n h = HardSwish(c) \n i = Identity(h) \n y = Relu(i)"


@pytest.fixture
def artifact(tmp_path: Path, rng: np.random.Generator) -> Artifact:
    model = text_model("float[1,3,6,6] x", "y", BODY, {"w": floats(rng, 4, 3, 1, 1)})
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "net.onnx")
    return Artifact.load(tmp_path / "in" / "net.onnx")


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a pass that turns Relu into Neg."""

    def negate(_: Graph, node: Node) -> int:
        node.op = "Neg"
        return 1

    entry = GraphPass(negate, "negate", 1e-5, lambda _: [], ("Relu",))
    monkeypatch.setitem(PASSES._entries, "negate", entry)
    return "negate"


def test_an_optional_pass_is_reverted_and_a_required_one_is_an_error(
    artifact: Artifact, wrong: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    made = rewrite(artifact, [wrong, "drop-identity"], out, Policy())
    assert [step.name for step in made.history] == ["drop-identity"]
    assert "Relu" in {node.op_type for node in onnx.load(out).graph.node}
    out.unlink()
    with pytest.raises(ParityError, match="negate breaks net") as caught:
        rewrite(artifact, [wrong], out, Policy(required="go without it"))
    assert caught.value.hint == "go without it"
    assert not out.exists()


def test_a_required_pass_that_nothing_can_prove_is_an_error(artifact: Artifact, tmp_path: Path) -> None:
    model = onnx.load(artifact.path)
    model.graph.node[0].domain = "nobody"
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    onnx.save(model, artifact.path)
    with pytest.raises(UsageError, match="ONNX Runtime cannot run"):
        rewrite(artifact, ["to-fp16"], tmp_path / "out.onnx", Policy(required="build in fp32"))


def test_a_report_tells_what_two_lists_of_passes_did(artifact: Artifact, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    options = OptimizeOptions(passes=("drop-identity", wrong), seeds=1)
    first = optimize_artifact(artifact, options, tmp_path / "a" / "net.onnx")
    report = PassReport.beside(first.path)
    assert report is not None
    assert (report.before.nodes, report.after.nodes, report.not_run) == (4, 3, "")
    assert {step.name: step.reverted for step in report.steps} == {"drop-identity": False, wrong: True}
    assert [(offence.name, offence.op) for offence in report.offences] == [(wrong, "Relu")]
    (folder,) = report.repros
    assert (folder / "before.onnx").is_file()

    (tmp_path / "b").mkdir()
    second = replace_operators(
        first, ["HardSwish"], ["HardSwish"], None, OptimizeOptions(seeds=1), tmp_path / "b" / "net.onnx"
    )
    both = PassReport.beside(second.path)
    assert both is not None
    assert (both.before, both.after.operators.get("HardSwish", 0)) == (report.before, 0)
    assert {"drop-identity", "decompose-hardswish"} <= {step.name for step in both.steps}
    assert both.repros == report.repros
    assert PassReport.beside(tmp_path / "none" / "net.onnx") is None


def test_the_cache_explains_the_run_that_was_made(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedeploy.verbs.deploy import export

    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(tmp_path / "cache"))
    reports: list[PassReport] = []
    for name in ("a.onnx", "b.onnx"):
        export(artifact.path, tmp_path / name, explain=reports.append)
    assert reports[0] == reports[1]
    assert reports[0].steps
