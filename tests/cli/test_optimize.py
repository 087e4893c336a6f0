"""`edgedeploy optimize` as it is typed: every option does what its help says, and says what it cannot do."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgedeploy.core.details import SplitDetails
from edgedeploy.core.spec import Artifact
from edgedeploy.export.samples import floats, text_model
from edgedeploy.export.simplify import TOOLS
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator
from tests.cli.conftest import Cli

BODY = (
    "c = Conv<pads=[1,1,1,1]>(x, w) \n b = BatchNormalization(c, s, s, s, s) \n i = Identity(b) \n "
    "r = Relu(i) \n z = Softmax<axis=1>(r) \n y = ReduceMax<keepdims=0>(z, axes)"
)


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A convolution, a norm that folds, an Identity, and a head."""
    w = {"w": floats(rng, 6, 3, 3, 3), "s": np.full(6, 2, np.float32), "axes": np.array([1])}
    path = tmp_path / "net.onnx"
    onnx.save(text_model("float[n,3,h,v] x", "y", BODY, w), path)
    return path


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def opset(path: Path) -> int:
    return max(entry.version for entry in onnx.load(path).opset_import)


def require_same(before: Path, after: Path) -> None:
    first, second = Evaluator(onnx.load(before)), Evaluator(onnx.load(after))
    for feeds, expected in feed_sets(first, 2):
        for name, value in second(feeds).items():
            limit = 1e-5 * max(1.0, float(np.abs(expected[name]).max()))
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=limit)


def test_json_is_one_document_that_says_everything(cli: Cli, source: Path) -> None:
    outcome = cli("optimize", source, "-o", source.with_name("out.onnx"), "--json")
    assert outcome.code == 0, outcome.err
    said: dict[str, Any] = json.loads(outcome.out)
    assert {"before", "after", "verified", "steps", "skipped", "repros", "notes"} <= set(said)
    assert (said["verified"], said["before"]["norms"], said["after"]["norms"]) == (True, 1, 0)
    steps = {step["pass"]: step for step in said["steps"]}
    assert set(steps) == {"drop-identity", "fold-batchnorm"}
    assert steps["fold-batchnorm"]["error"] <= 1e-5
    assert (steps["drop-identity"]["nodes_before"], steps["drop-identity"]["nodes_after"]) == (6, 5)
    assert said["after"]["nodes"] == len(kinds(source.with_name("out.onnx"))) == 4


def test_skip_leaves_a_pass_out_and_refuses_names_that_are_none(cli: Cli, source: Path) -> None:
    out = source.with_name("out.onnx")
    assert cli("optimize", source, "-o", out, "--skip", "fold-batchnorm, propagate-affine").code == 0
    assert kinds(out) == ["Conv", "BatchNormalization", "Relu", "Softmax", "ReduceMax"]
    wrong = cli("optimize", source, "-o", out, "--skip", "fold-batchnrm")
    assert wrong.code != 0
    assert "fold-batchnorm" in wrong.err
    both = cli("optimize", source, "-o", out, "--skip", "fold-pad", "--passes", "drop-identity")
    assert both.code != 0
    assert "exclude each other" in both.err


def test_passes_runs_these_alone(cli: Cli, source: Path) -> None:
    out = source.with_name("out.onnx")
    assert cli("optimize", source, "-o", out, "--passes", "drop-identity").code == 0
    assert kinds(out) == ["Conv", "BatchNormalization", "Relu", "Softmax", "ReduceMax"]


def test_explain_says_why_candidates_stand(cli: Cli, source: Path) -> None:
    outcome = cli("optimize", source, "-o", source.with_name("out.onnx"), "--explain")
    assert "not rewritten:" in outcome.out
    assert "not rewritten:" not in cli("optimize", source, "-o", source.with_name("out.onnx")).out


def test_in_place_writes_over_the_input_and_nothing_else_does(cli: Cli, source: Path) -> None:
    before = source.read_bytes()
    refused = cli("optimize", source, "-o", source)
    assert refused.code != 0
    assert "--in-place" in refused.err
    assert cli("optimize", source, "--in-place", "-o", source.with_name("out.onnx")).code != 0
    assert source.read_bytes() == before
    kept = source.with_name("kept.onnx")
    shutil.copy(source, kept)
    assert cli("optimize", source, "--in-place").code == 0
    assert kinds(source) == ["Conv", "Relu", "Softmax", "ReduceMax"]
    require_same(kept, source)


def test_without_proof_nothing_is_run_and_the_file_says_so(
    cli: Cli, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was run")

    out = source.with_name("out.onnx")
    with monkeypatch.context() as patched:
        patched.setattr("edgedeploy.graphs.run.Evaluator.__init__", refuse)
        outcome = cli("optimize", source, "-o", out, "--no-verify", "--json")
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert said["verified"] is False
    assert all(step["error"] is None for step in said["steps"])
    assert Artifact.load(out).details.surgery.verified is False
    assert kinds(out) == ["Conv", "Relu", "Softmax", "ReduceMax"]


@pytest.mark.parametrize(
    ("target", "stays", "version"),
    [
        ("jetson-nano", set(), 14),
        ("jetson-agx-xavier", {"HardSwish"}, 17),
        ("jetson-orin-nano", {"Gelu", "HardSwish", "LayerNormalization", "Mish"}, 20),
        ("rtx-4090", {"Gelu", "HardSwish", "LayerNormalization", "Mish"}, 20),
    ],
)
def test_for_a_target_its_missing_operators_go(
    target: str, stays: set[str], version: int, cli: Cli, tmp_path: Path, rng: np.random.Generator
) -> None:
    w = {"w": floats(rng, 8, 3, 3, 3), "g": np.abs(floats(rng, 6)) + 1}
    body = (
        "c = Conv<pads=[1,1,1,1]>(x, w) \n e = Gelu(c) \n h0 = HardSwish(e) \n m = Mish(h0) \n "
        "y = LayerNormalization(m, g)"
    )
    source, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(text_model("float[n,3,h,6] x", "y", body, w), source)
    outcome = cli("optimize", source, "-o", out, "--for", target)
    assert outcome.code == 0, outcome.err
    newer = {"Gelu", "HardSwish", "LayerNormalization", "Mish"}
    assert newer & set(kinds(out)) == stays
    assert opset(out) == version
    assert ("the target reads 13" in outcome.err) == (target == "jetson-nano")
    assert f"--target {target}" in outcome.err
    require_same(source, out)
    # Since opset 18 axes are an input, which TensorRT before 10 does not read.
    means = [node for node in onnx.load(out).graph.node if node.op_type == "ReduceMean"]
    assert all(len(node.input) == 1 for node in means)
    assert len(means) == (0 if "LayerNormalization" in stays else 2)


@pytest.mark.parametrize("target", ["jetson-nano", "jetson-agx-xavier", "jetson-orin-nx"])
def test_what_only_newer_opsets_have_is_written_in_older_ones(
    target: str, cli: Cli, tmp_path: Path, rng: np.random.Generator
) -> None:
    w = {"w": floats(rng, 6, 3, 1, 1), "g": np.abs(floats(rng, 6)) + 1, "t": np.abs(floats(rng, 5)) + 1}
    body = (
        "c = Conv(x, w) \n s = Swish(c) \n m = RMSNormalization(s, t) \n "
        "n = GroupNormalization<num_groups=2>(m, g, g) \n k = Cast<to=1>(n) \n p = Shape(m) \n "
        "y = Reshape(k, p)"
    )
    source, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(text_model("float[2,3,4,5] x", "y", body, w, opset=24), source)
    outcome = cli("optimize", source, "-o", out, "--for", target)
    assert outcome.code == 0, outcome.err
    assert not {"Swish", "RMSNormalization", "GroupNormalization"} & set(kinds(out))
    assert opset(out) <= 20
    require_same(source, out)


def test_channels_are_padded_on_request(cli: Cli, tmp_path: Path, rng: np.random.Generator) -> None:
    w = {"a": floats(rng, 7, 3, 3, 3), "c": floats(rng, 4, 7, 1, 1)}
    source, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(
        text_model("float[n,3,h,v] x", "y", "m = Conv(x, a) \n r = Relu(m) \n y = Conv(r, c)", w), source
    )
    assert cli("optimize", source, "-o", out, "--pad-channels", "8").code == 0
    sizes = {tuple(tensor.dims) for tensor in onnx.load(out).graph.initializer}
    assert sizes == {(8, 3, 3, 3), (4, 8, 1, 1)}
    require_same(source, out)
    assert cli("optimize", source, "-o", out, "--pad-channels", "1").code != 0


def test_split_writes_two_files_that_are_the_model(cli: Cli, source: Path) -> None:
    out = source.with_name("device.onnx")
    outcome = cli("optimize", source, "-o", out, "--split-at", "r", "--json")
    assert outcome.code == 0, outcome.err
    tail = source.with_name("device.tail.onnx")
    assert (kinds(out), kinds(tail)) == (["Conv", "Relu"], ["Softmax", "ReduceMax"])
    said = json.loads(outcome.out)
    assert (said["after"]["nodes"], said["tail"]["after"]["nodes"]) == (2, 2)
    assert Artifact.load(out).outputs[0].name == Artifact.load(tail).inputs[0].name == "r"
    assert Artifact.load(tail).details.split == SplitDetails(at=("r",), head=out.name, tail=tail.name)
    whole, first, second = (Evaluator(onnx.load(path)) for path in (source, out, tail))
    for feeds, expected in feed_sets(whole, 2):
        np.testing.assert_allclose(second(first(feeds))["y"], expected["y"], rtol=1e-5, atol=1e-6)
    spoken = cli("optimize", source, "-o", out, "--split-at", "r")
    assert "device.tail.onnx" in spoken.out


def test_a_split_part_is_proved_on_real_inputs(cli: Cli, source: Path) -> None:
    feeds = source.with_name("feeds.npz")
    np.savez(feeds, x=np.ones((1, 3, 8, 6), np.float32))
    out = source.with_name("device.onnx")
    outcome = cli("optimize", source, "-o", out, "--split-at", "b", "--data", feeds)
    assert outcome.code == 0, outcome.err
    assert kinds(source.with_name("device.tail.onnx")) == ["Relu", "Softmax", "ReduceMax"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--split-at", "nothing"], "nothing"),
        (["--split-at", ","], "names no tensor"),
        (["--split-at", "y"], "no output depends"),
        (["--split-at", "r", "--in-place"], "exclude each other"),
    ],
)
def test_what_cannot_be_split_leaves_no_file(words: list[str], says: str, cli: Cli, source: Path) -> None:
    out = [] if "--in-place" in words else ["-o", source.with_name("device.onnx")]
    before = source.read_bytes()
    outcome = cli("optimize", source, *out, *words)
    assert outcome.code != 0
    assert says in outcome.err
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    assert source.read_bytes() == before


def test_of_two_parts_both_are_written_or_none(
    cli: Cli, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedeploy.core.errors import OutputError
    from edgedeploy.graphs import metadata

    real = metadata.save_model

    def full(model: Any, artifact: Artifact, path: Path, **words: Any) -> Artifact:
        if path.name == "device.onnx":
            raise OutputError(f"cannot write {path}: No space left on device", "make room")
        return real(model, artifact, path, **words)

    monkeypatch.setattr(metadata, "save_model", full)
    outcome = cli("optimize", source, "-o", source.with_name("device.onnx"), "--split-at", "r")
    assert outcome.code != 0
    assert [path.name for path in source.parent.iterdir()] == [source.name]


@pytest.mark.parametrize("tool", TOOLS)
def test_simplify_runs_the_tool_and_proves_what_it_made(tool: str, cli: Cli, source: Path) -> None:
    out = source.with_name("out.onnx")
    outcome = cli("optimize", source, "-o", out, "--simplify", tool, "--passes", "drop-dead")
    if find_spec(tool) is None:
        assert outcome.code != 0
        assert f"pip install {tool}" in outcome.err
        pytest.skip(f"{tool} is not installed; that is said")
    assert outcome.code == 0, outcome.err
    assert f"{tool}: 6 to " in outcome.err
    assert "max error" in outcome.err
    assert "Identity" not in kinds(out)
    require_same(source, out)
