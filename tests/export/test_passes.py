"""Every registered pass keeps its contract: a new pass is tested here without another line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedeploy.core.parity import EXACT, Difference, of_pass
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.prove.proof import output_difference
from edgedeploy.export.runner import optimize
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import dump, load

NAMES = PASSES.names()
some_seeds = settings(max_examples=4, deadline=None, derandomize=True)


def after(item: GraphPass, model: onnx.ModelProto, options: Any) -> tuple[onnx.ModelProto, int]:
    graph = load(model)
    hits = item.apply(graph, options).hits
    return dump(graph), hits


def worst_difference(
    item: GraphPass, before: onnx.ModelProto, changed: onnx.ModelProto, options: Any
) -> Difference:
    """Over two draws, through the pass's own account of what inputs and outputs now mean."""
    old, new, worst = Evaluator(before), Evaluator(changed), EXACT
    for drawn, answered in feed_sets(old, 2):
        feeds, expected = drawn, answered
        if item.old_feeds is not None:
            assert item.new_feeds is not None
            feeds = item.new_feeds(drawn, options)
            expected = old(item.old_feeds(feeds, options))
        if item.old_outputs is not None:
            expected = item.old_outputs(expected, options)
        worst = worst.worse(output_difference(expected, new(feeds)))
    return worst


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
@some_seeds
def test_every_case_fires_and_computes_the_same(name: str, seed: int) -> None:
    item = PASSES.get(name)
    for number, (model, options) in enumerate(item.examples(np.random.default_rng(seed))):
        changed, hits = after(item, model, options)
        assert hits > 0, f"case {number} does not fire"
        onnx.checker.check_model(changed)
        found = worst_difference(item, model, changed, options)
        assert of_pass(item.atol).accepts(found), f"case {number}"


@pytest.mark.parametrize("name", [name for name in NAMES if PASSES.get(name).keeps_contract])
def test_a_second_run_finds_nothing(name: str, rng: np.random.Generator) -> None:
    item = PASSES.get(name)
    for model, options in item.examples(rng):
        once, _ = after(item, model, options)
        twice, hits = after(item, once, options)
        assert hits == 0
        assert [node.op_type for node in twice.graph.node] == [node.op_type for node in once.graph.node]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_inputs_and_outputs_survive(name: str, rng: np.random.Generator) -> None:
    item = PASSES.get(name)
    for model, options in item.examples(rng):
        changed, _ = after(item, model, options)
        assert [v.name for v in changed.graph.input] == [v.name for v in model.graph.input]
        assert [v.name for v in changed.graph.output] == [v.name for v in model.graph.output]


@pytest.mark.parametrize("name", NAMES)
def test_the_runner_accepts_every_case(name: str, rng: np.random.Generator) -> None:
    item = PASSES.get(name)
    for model, options in item.examples(rng):
        result = optimize(model, [item], options={name: options})
        assert result.not_run == ""
        assert not result.reverted
        assert result.steps[0].hits > 0


@pytest.mark.parametrize("name", [name for name in NAMES if PASSES.get(name).ops])
def test_a_limit_stops_a_pass(name: str, rng: np.random.Generator) -> None:
    item = PASSES.get(name)
    for model, options in item.examples(rng):
        assert item.apply(load(model), options, limit=0).hits == 0
        assert item.apply(load(model), options, limit=1).hits == 1


def test_the_default_order_names_passes_that_exist() -> None:
    assert set(DEFAULT_PASSES) <= set(NAMES)
    assert all(PASSES.get(name).keeps_contract for name in DEFAULT_PASSES)


def test_a_broken_formula_would_be_seen(rng: np.random.Generator) -> None:
    """The comparison above must be able to fail: a fold that is 1 % off does."""
    item = PASSES.get("fold-mul-add")
    model, options = item.examples(rng)[0]
    changed, _ = after(item, model, options)
    weight = next(t for t in changed.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.01, weight.name))
    assert not of_pass(item.atol).accepts(worst_difference(replace(item), model, changed, options))
