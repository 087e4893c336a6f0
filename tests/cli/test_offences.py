"""When a pass breaks its promise: the one rewrite is found, the others stand, and a small model shows it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedeploy.api import optimize as optimize_file
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.order import DEFAULT_PASSES, in_order
from edgedeploy.export.prove.trial import first_failure
from edgedeploy.export.runner import MAX_OFFENCES, OptimizeResult, optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import Graph, Node, constant
from tests.cli.conftest import Cli

LAYERS = 12


def tower(rng: np.random.Generator, convolution: bool = True) -> onnx.ModelProto:
    """Twelve Relus, each named r<number>, with a convolution in the middle, all answered."""
    body = "t0 = Conv<pads=[1,1,1,1]>(x, w) \n " if convolution else "t0 = Neg(x) \n "
    body += "".join(f"t{i + 1} = Relu(t0) \n " for i in range(LAYERS))
    body += "y = Concat<axis=1>(" + ", ".join(f"t{i + 1}" for i in range(LAYERS)) + ")"
    model = text_model("float[1,3,8,6] x", "y", body, {"w": floats(rng, 4, 3, 3, 3)})
    for number, node in enumerate(model.graph.node):
        node.name = f"r{number}"
    return model


def to_clip(graph: Graph, node: Node, low: float = 0.0) -> int:
    """Relu(x) = Clip(x, 0); with another bound it is not."""
    node.op = "Clip"
    node.inputs = [node.inputs[0], constant(graph, "low", np.asarray(low), np.float32)]
    return 1


def wrong_at(*bad: str, ops: tuple[str, ...] = ("Relu",), name: str = "tell-lies") -> GraphPass:
    """A pass that is right everywhere but at the nodes named."""

    def rewrite(graph: Graph, node: Node) -> int:
        return to_clip(graph, node, 0.5 if node.name in bad else 0.0)

    return GraphPass(rewrite, name, 1e-5, lambda _: [], ops)


def operators(result: OptimizeResult) -> Counter[str]:
    return Counter(node.op_type for node in result.model.graph.node)


@given(hits=st.integers(1, 200), data=st.data())
def test_bisection_finds_the_first_failure_quickly(hits: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, hits))
    tried = []

    def attempt(count: int) -> None:
        tried.append(count)
        if count >= place:
            raise ValueError(str(count))

    found, reason = first_failure(attempt, hits, ValueError)
    assert found == place
    assert str(reason) == str(place)
    assert len(tried) <= math.ceil(math.log2(hits)) + 1


def test_bisection_of_what_does_not_fail_says_so() -> None:
    with pytest.raises(LookupError):
        first_failure(lambda n: n, 5, ValueError)


@pytest.mark.parametrize("bad", [["r1"], ["r7"], ["r12"], ["r2", "r3", "r11"]])
def test_only_the_wrong_rewrite_is_taken_back(bad: list[str], rng: np.random.Generator) -> None:
    result = optimize(tower(rng), [wrong_at(*bad)])
    assert [offence.node for offence in result.offences] == bad
    assert not result.reverted
    assert operators(result)["Clip"] == LAYERS - len(bad)
    assert {n.name for n in result.model.graph.node if n.op_type == "Relu"} == set(bad)
    skipped = {entry.node: entry.reason for _, entry in result.skipped}
    assert set(skipped) == set(bad)
    assert all("reverted" in reason for reason in skipped.values())
    (step,) = result.history()
    assert step.hits == LAYERS - len(bad)


def test_a_pass_with_many_wrong_rewrites_is_taken_back_whole(rng: np.random.Generator) -> None:
    result = optimize(tower(rng), [wrong_at(*(f"r{n}" for n in range(1, MAX_OFFENCES + 3))), "drop-identity"])
    assert [step.name for step in result.reverted] == ["tell-lies"]
    assert operators(result)["Relu"] == LAYERS


def raise_at(bad: str) -> GraphPass:
    def rewrite(graph: Graph, node: Node) -> int:
        if node.name == bad:
            node.outputs.clear()  # half done
            raise IndexError("off by one")
        return to_clip(graph, node)

    return GraphPass(rewrite, "raise", 1e-5, lambda _: [], ("Relu",))


@pytest.mark.parametrize("verify", [True, False])
def test_a_rewrite_that_raises_is_left_out_and_undone(verify: bool, rng: np.random.Generator) -> None:
    model = tower(rng)
    model.graph.node.add(op_type="Identity", name="i", input=["y"], output=["z"])
    model.graph.node.add(op_type="Relu", name="last", input=["z"], output=["q"])
    model.graph.output[0].name = "q"
    result = optimize(model, ["drop-identity", raise_at("r5")], verify=verify)
    (offence,) = result.offences
    assert offence.node == "r5"
    assert offence.reason == "it raised IndexError: off by one"
    assert operators(result) == {"Conv": 1, "Clip": LAYERS, "Relu": 1, "Concat": 1}
    # What was done before is not lost, or it would have to be done again.
    assert [step.name for step in result.steps] == ["drop-identity", "raise"]
    feeds = {"x": rng.standard_normal((1, 3, 8, 6)).astype(np.float32)}
    np.testing.assert_allclose(
        Evaluator(result.model)(feeds)["q"], Evaluator(model)(feeds)["q"], rtol=1e-6, atol=1e-6
    )


def outputs_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    feeds = dict(np.load(folder / "feeds.npz"))
    answers = [
        next(iter(Evaluator(onnx.load(folder / name))(feeds).values()))
        for name in ("before.onnx", "after.onnx")
    ]
    return answers[0], answers[1]


def test_the_repro_is_small_and_shows_it(rng: np.random.Generator, tmp_path: Path) -> None:
    (offence,) = optimize(tower(rng), [wrong_at("r7")]).offences
    assert offence.repro is not None
    offence.repro.save(tmp_path, offence.name, offence.reason)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.txt", "after.onnx", "before.onnx", "feeds.npz",
    ]  # fmt: skip
    assert [n.op_type for n in onnx.load(tmp_path / "before.onnx").graph.node] == ["Relu"]
    assert [n.op_type for n in onnx.load(tmp_path / "after.onnx").graph.node] == ["Clip"]
    before, after = outputs_of(tmp_path)
    assert np.abs(before - after).max() > 0.1
    text = (tmp_path / "README.txt").read_text()
    assert "r7" in text
    assert "--passes tell-lies" in text


def test_a_whole_graph_pass_gets_a_repro_too(rng: np.random.Generator, tmp_path: Path) -> None:
    def scale(graph: Graph) -> int:
        weight = next(node for node in graph.nodes if node.op == "Conv").inputs[1]
        weight.values = weight.values * 1.01
        return 1

    (offence,) = optimize(tower(rng), [GraphPass(scale, "scale", 1e-5, lambda _: [])]).offences
    assert offence.node == ""
    assert offence.repro is not None
    assert [n.op_type for n in offence.repro.before.graph.node] == ["Conv"]
    offence.repro.save(tmp_path, offence.name, offence.reason)
    before, after = outputs_of(tmp_path)
    assert 0.005 < np.abs(before - after).max() / np.abs(before).max() < 0.02


def test_the_command_goes_on_and_leaves_the_repro_beside_the_output(
    cli: Cli, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PASSES._entries, "tell-lies", wrong_at("r7"))
    onnx.save(tower(rng), tmp_path / "in.onnx")
    outcome = cli("optimize", tmp_path / "in.onnx", "-o", tmp_path / "out.onnx", "--passes", "tell-lies")
    assert outcome.code == 0, outcome.err
    assert "tell-lies was reverted at node 'r7'" in outcome.err
    folder = tmp_path / "out.repro" / "01-tell-lies"
    before, after = outputs_of(folder)
    assert np.abs(before - after).max() > 0.1
    # What README.txt says to run, runs and fails in the same way.
    again = optimize_file(
        folder / "before.onnx", tmp_path / "again.onnx", passes=["tell-lies"], data=folder / "feeds.npz"
    )
    assert [offence.node for offence in again.report.offences] == ["r7"]


def test_what_was_granted_stands_in_the_history(shared: Path) -> None:
    """A network that amplifies rounding: folding its norms moves the output further than promised."""
    result = optimize(onnx.load(shared / "data" / "models" / "ppocrv3_det_DBNet.onnx"))
    granted = [step for step in result.history() if step.granted is not None]
    assert granted
    for step in granted:
        assert step.error is not None
        assert step.granted is not None
        assert PASSES.get(step.name).atol < step.error <= step.granted
    assert any("was granted" in problem for problem in result.problems())


def test_the_order_follows_from_what_passes_say() -> None:
    def item(name: str, phase: str, *after: str) -> GraphPass:
        return GraphPass(lambda _: 0, name, 0.0, lambda _: [], phase=phase, after=after)

    late, early = item("a", "fold", "b"), item("b", "fold", "elsewhere")
    assert in_order([late, item("z", "clean"), early]) == ("z", "b", "a")
    with pytest.raises(ValueError, match="wait for each other: a, b"):
        in_order([late, item("b", "fold", "a")])
    with pytest.raises(ValueError, match="phase 'flod'"):
        in_order([item("c", "flod")])


def test_every_default_pass_comes_after_those_that_it_names() -> None:
    for number, name in enumerate(DEFAULT_PASSES):
        for before in PASSES.get(name).after:
            assert before not in DEFAULT_PASSES[number:], f"{name} runs before {before}"
