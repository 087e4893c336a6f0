"""Every lint rule by the same tests: it fires on its bad models, keeps still on its good ones, and its fix
heals.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from edgedeploy.calibration import load_rules, rule_names
from edgedeploy.calibration.lint import LINT, LintRule, Subject, all_rules, fix, lint, subject_named
from edgedeploy.calibration.lint.rule import Case
from edgedeploy.calibration.lint.scene import Scene
from edgedeploy.calibration.lint.verify import random_runs, run
from edgedeploy.core.parity import worst_difference
from tests.conftest import ROOT
from tests.support.runtimes import Refused, exact_here, openvino_output, rtx_kernels

NAMES = LINT.names()
# What TensorRT-RTX 1.7's parser really refuses, of the rules about parsers: so many of their bad models.
REFUSED = {
    "asymmetric-activation": 3, "asymmetric-weight": 2, "int32-bias": 1, "scale-not-positive": 4,
    "unknown-format": 2,
}  # fmt: skip


def judged(rule: LintRule, case: Case) -> tuple[onnx.ModelProto, Subject]:
    if isinstance(case, tuple):
        return case[0], subject_named(case[1])
    order = ["tensorrt", "openvino", "onnxruntime", "dla", "onnxruntime-mobile", "openvino-avx2"]
    return case, Subject(next(rules for rules in map(load_rules, order) if rule.applies(rules)))


def found(rule: LintRule, model: onnx.ModelProto, subject: Subject) -> list[str]:
    return [f"{entry.node}: {entry.why}" for entry in lint(model, subject) if entry.id == rule.id]


@pytest.mark.parametrize("name", NAMES)
def test_it_fires_on_bad_models_and_not_on_good_ones(name: str, rng: np.random.Generator) -> None:
    rule = LINT.get(name)
    cases = rule.cases(rng)
    assert cases.bad
    assert cases.good
    for number, case in enumerate(cases.bad):
        model, subject = judged(rule, case)
        onnx.checker.check_model(model)
        assert found(rule, model, subject), f"silent on bad model {number}"
    for number, case in enumerate(cases.good):
        model, subject = judged(rule, case)
        onnx.checker.check_model(model)
        assert found(rule, model, subject) == [], f"fires on good model {number}"


@pytest.mark.parametrize("name", [name for name in NAMES if LINT.get(name).fixable])
def test_its_fix_heals_and_keeps_the_numbers(name: str, rng: np.random.Generator) -> None:
    rule, healed = LINT.get(name), 0
    for case in rule.cases(rng).bad:
        model, subject = judged(rule, case)
        before = model.SerializeToString()
        fixed = fix(model, subject, only=[rule.id])
        assert model.SerializeToString() == before
        mine = [repair for repair in fixed.repairs if repair.id == rule.id]
        assert not any(repair.reverted for repair in fixed.repairs), fixed.repairs
        if not mine:
            continue  # as with an activation's scale of 0: nobody knows what it should have been
        healed += 1
        assert found(rule, fixed.model, subject) == []
        onnx.checker.check_model(fixed.model, full_check=not any(o.domain for o in model.opset_import))
        feeds, outputs = random_runs(Scene(model, subject.rules))
        sqnr = worst_difference(zip(outputs, run(fixed.model, feeds), strict=True)).sqnr_db
        assert sqnr == pytest.approx(fixed.sqnr_db, abs=0.1)
        assert mine[0].sqnr_db is not None
        assert mine[0].sqnr_db >= rule.promise
    assert healed


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_parser_refuses_the_bad_and_takes_the_good_and_the_fixed(
    name: str, rng: np.random.Generator
) -> None:
    rule = LINT.get(name)
    cases, refused = rule.cases(rng), 0
    for case in cases.bad:
        model, subject = judged(rule, case)
        try:
            rtx_kernels(model)
        except Refused:
            refused += 1
            fixed = fix(model, subject)
            if any(repair.id == rule.id for repair in fixed.repairs):
                assert rtx_kernels(fixed.model)
    assert refused == REFUSED[name]
    for case in cases.good:
        assert rtx_kernels(judged(rule, case)[0])


@pytest.mark.parametrize("name", ["joined-matmul", "padded-average", "signed-concat"])
def test_openvino_fails_at_the_bad_and_computes_the_good_and_the_fixed_right(
    name: str, rng: np.random.Generator
) -> None:
    """Red here on the bad models alone means that OpenVINO was mended, and the rule may go."""
    rule = LINT.get(name)

    def decibels(model: onnx.ModelProto, subject: Subject) -> float:
        model = exact_here(model)
        feeds, outputs = random_runs(Scene(model, subject.rules))
        feed, (exact,) = feeds[0], outputs[0].values()
        (x,) = feed.values()
        try:
            wrong = openvino_output(model, x) - exact
        except RuntimeError:  # it does not compile
            return -np.inf
        return float(10 * np.log10((exact**2).sum() / max(1e-30, (wrong**2).sum())))

    cases = rule.cases(rng)
    for case in cases.bad:
        model, subject = judged(rule, case)
        assert decibels(model, subject) < 30
        assert decibels(fix(model, subject, only=[rule.id]).model, subject) > 45
    for case in cases.good:
        assert decibels(*judged(rule, case)) > 45


def test_ids_are_stable_and_documented() -> None:
    text = (ROOT / "docs" / "lint.md").read_text()
    rules = all_rules()
    assert len({rule.id for rule in rules}) == len(rules)
    for rule in rules:
        assert re.fullmatch(r"ED[123]\d\d", rule.id)
        row = next((line for line in text.splitlines() if line.startswith(f"| {rule.id} |")), "")
        for part in (f"`{rule.name}`", rule.severity, rule.title, *rule.source):
            assert part in row, f"docs/lint.md, {rule.id}: {part}"
        assert ("yes" in row) == rule.fixable
        assert any(rule.applies(load_rules(name)) for name in rule_names()), rule.name
    for number in [*(f"H{i}" for i in range(1, 9)), *(f"P{i}" for i in range(1, 17))]:
        assert re.search(rf"^\| {number} \|", text, re.MULTILINE), f"{number} is not documented"
