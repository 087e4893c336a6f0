"""The models of the onnx package's own backend suite: none is refused, none computes anything else after.

By default those on disk and every twentieth single-operator case; EDGEDEPLOY_ALL_CASES=1 takes all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest

from edgedeploy.core.parity import HALF_LIMIT, of_pass
from edgedeploy.export.prove.proof import output_difference
from edgedeploy.export.runner import optimize
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.read import read_model
from edgedeploy.graphs.run import Evaluator, Feeds, NotRunnable

ROOT = Path(onnx.backend.test.__file__).parent / "data"
ALL = bool(os.environ.get("EDGEDEPLOY_ALL_CASES"))
# Folder, and how many of its models ONNX Runtime runs at least on inputs drawn at random.
SUITES = {"pytorch-converted": 1, "pytorch-operator": 1, "simple": 1, **({"light": 1} if ALL else {})}
REASONS = ("it draws random numbers", "graph surgery cannot carry", "it has text inputs", "its inputs are")
STEP = 1 if ALL else 20


@cache
def operator_cases() -> list[tuple[str, onnx.ModelProto, list[Feeds]]]:
    """(name, model, feeds) of the cases that the package makes by itself."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the cases overflows on purpose
        cases = collect_testcases(None)
    found = []
    for case in sorted(cases, key=lambda case: case.name)[::STEP]:
        feeds = [
            dict(zip((value.name for value in case.model.graph.input), inputs, strict=False))
            for inputs, _ in case.data_sets or []
        ]
        found.append((case.name, case.model, feeds))
    return found


def runs(model: onnx.ModelProto, given: list[Feeds]) -> Iterator[tuple[Feeds, dict[str, np.ndarray]]]:
    """Inputs and outputs as they are before; none where ONNX Runtime does not run the model."""
    try:
        evaluator = Evaluator(model)
        yield from ((feeds, evaluator(feeds)) for feeds in given)
        if not given:
            yield from feed_sets(evaluator, 2)
    except NotRunnable:
        return


def check(model: onnx.ModelProto, given: list[Feeds]) -> bool:
    """Whether the model is one that ONNX Runtime runs; then it must come through every pass as it was."""
    expected = list(runs(model, given))
    if not expected:
        return False
    result = optimize(model, feeds=[feeds for feeds, _ in expected])
    assert not result.offences, result.problems()
    if result.not_run:
        assert any(reason in result.not_run for reason in REASONS), result.not_run
    after = Evaluator(result.model)
    for feeds, outputs in expected:
        half = any(getattr(value, "dtype", None) == np.float16 for value in outputs.values())
        limit = of_pass(HALF_LIMIT if half else 1e-5)
        assert limit.accepts(output_difference(outputs, after(feeds)))
    return True


def failures(named: Iterator[tuple[str, onnx.ModelProto, list[Feeds]]]) -> tuple[int, list[str]]:
    """(how many of the models ONNX Runtime runs, what went wrong with which)."""
    ran, wrong = 0, []
    for name, model, given in named:
        try:
            ran += check(model, given)
        except Exception as error:  # noqa: BLE001, PERF203  all are to be named, not the first alone
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    return ran, wrong


@pytest.mark.parametrize(("suite", "least"), SUITES.items())
def test_models_on_disk(suite: str, least: int) -> None:
    paths = sorted((ROOT / suite).rglob("*.onnx"))
    ran, wrong = failures((path.parent.name, read_model(path), []) for path in paths)
    assert not wrong, "\n".join(wrong)
    assert ran >= least


def test_cases_of_single_operators() -> None:
    cases = operator_cases()
    ran, wrong = failures(iter(cases))
    assert not wrong, "\n".join(wrong)
    assert ran > 0.6 * len(cases)
