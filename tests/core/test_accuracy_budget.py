"""Budgets of accuracy: what they say, and when they are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedeploy.core.accuracy import change, parse_accuracy
from edgedeploy.core.agreement import cosine, likeness, overlap
from edgedeploy.core.errors import UsageError
from edgedeploy.core.spec import Artifact, TaskSpec, TensorSpec
from edgedeploy.guard.score import agreement_scores
from edgedeploy.task import TASKS, task_for


@pytest.mark.parametrize(
    ("text", "scores", "reference", "kept"),
    [
        ("miou>=-0.3", {"miou": 0.697}, {"miou": 0.7}, True),  # points of 100
        ("miou>=-0.3", {"miou": 0.696}, {"miou": 0.7}, False),
        ("psnr>=-0.05", {"psnr_y": 32.66}, {"psnr_y": 32.7}, True),  # decibels
        ("psnr>=-0.05", {"psnr_y": 32.60}, {"psnr_y": 32.7}, False),
        ("f>=-0.5", {"f_measure": 0.60}, {"f_measure": 0.604}, True),
        ("agreement>=0.985", {"agreement": 0.985}, {}, True),
        ("worst>0.93", {"worst": 0.93}, {}, False),
        ("agreement_low>=0.985", {"agreement": 0.99, "agreement_low": 0.984}, {}, False),
        ("sqnr>=40", {"sqnr": 41.0}, {}, True),
        ("top1>=0", {"top1": math.nan}, {"top1": 0.9}, False),
        ("cup_to_disc_error<=0.01", {"cup_to_disc_error": 0.06}, {"cup_to_disc_error": 0.055}, True),
    ],
)
def test_kept(text: str, scores: dict[str, float], reference: dict[str, float], kept: bool) -> None:
    (budget,) = parse_accuracy([text])
    assert budget.kept(scores, reference) is kept
    assert f"{budget.metric} " in budget.shown(scores, reference)


def test_several_between_commas_and_what_is_no_budget() -> None:
    assert [b.metric for b in parse_accuracy(["agreement>=0.98, worst>=0.9", "miou>=-1"])] == [
        "agreement", "worst", "miou",
    ]  # fmt: skip
    for wrong in ("miou", "miou=3", "miou>=x", "miou>=-0.3%"):
        with pytest.raises(UsageError, match="not an accuracy budget"):
            parse_accuracy([wrong])


def test_a_figure_that_is_not_there_is_named_with_a_close_one() -> None:
    (budget,) = parse_accuracy(["miuo>=-0.3"])
    with pytest.raises(UsageError) as caught:
        budget.kept({"miou": 0.7, "images": 3}, {"miou": 0.7})
    assert "miou" in caught.value.hint
    assert change("miou", 0.69, 0.7) == pytest.approx(-1.0)


def test_agreement_of_masks_vectors_and_values() -> None:
    a, b = np.zeros((2, 4, 4), bool)
    assert overlap(a, b) == 1.0
    a[:2], b[1:3] = True, True
    assert overlap(a, b) == pytest.approx(4 / 12)
    x = np.arange(1.0, 5.0)
    assert likeness(x, x) == 1.0
    assert likeness(x, x * 1.01) == pytest.approx(0.99)
    assert likeness(x, x * np.nan) == 0.0
    assert likeness(x, -x) == 0.0
    assert cosine(x, 3 * x) == pytest.approx(1.0)


def artifact(task: str, *outputs: tuple[int, ...], channels: int = 3, **options: object) -> Artifact:
    return Artifact(
        path="m.onnx",  # type: ignore[arg-type]
        kind="onnx",
        model="m",
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1, channels, 8, 8), layout="NCHW"),),
        outputs=tuple(
            TensorSpec(name=name, dtype="float32", shape=shape)
            for name, shape in zip("yz", outputs, strict=False)
        ),
        task=TaskSpec(name=task, options=dict(options)),
    )


@pytest.mark.parametrize(
    ("task", "shape", "channels", "options"),
    [
        ("segmentation", (1, 5, 8, 8), 3, {}),
        ("text-detection", (1, 1, 8, 8), 3, {}),
        ("classification", (1, 10), 3, {}),
        ("face-embedding", (1, 16), 3, {}),
        ("disc-cup", (1, 2, 8, 8), 3, {}),
        ("super-resolution", (1, 1, 16, 16), 1, {"scale": 2}),
        ("tensor", (1, 7), 3, {}),
    ],
)
def test_every_task_agrees_with_itself_and_less_with_others(
    task: str, shape: tuple[int, ...], channels: int, options: dict[str, object], rng: np.random.Generator
) -> None:
    chosen = task_for(artifact(task, shape, channels=channels, **options))
    y = rng.standard_normal(shape).astype(np.float32)
    assert chosen.agreement({"y": y}, {"y": y}) == pytest.approx(1.0)
    other = -y
    assert chosen.agreement({"y": y}, {"y": other}) < 0.9
    found = agreement_scores(chosen, [({"y": y}, {"y": y}), ({"y": y}, {"y": other})])
    assert found["worst"] < found["agreement"] < 1
    assert found["sqnr"] == pytest.approx(10 * math.log10(2 / 4), abs=0.01)


@pytest.mark.parametrize(
    ("task", "shape", "other", "channels"),
    [
        ("segmentation", (1, 5, 8, 8), (1, 4, 8, 8), 3),  # boxes
        ("segmentation", (1, 5, 8, 8), (1, 5, 4, 4), 3),  # an auxiliary head
        ("text-detection", (1, 1, 8, 8), (1, 1, 8, 8), 3),  # thresholds
        ("classification", (1, 10), (1, 16, 4, 4), 3),  # features
        ("classification", (1, 10), (1, 1), 3),
        ("face-embedding", (1, 16), (1, 2), 3),
        ("disc-cup", (1, 2, 8, 8), (1, 1), 3),
        ("super-resolution", (1, 1, 16, 16), (1, 1, 8, 8), 1),
        ("tensor", (1, 7), (1, 3), 3),
    ],
)
def test_agreement_is_of_every_output_and_the_worst_decides(
    task: str, shape: tuple[int, ...], other: tuple[int, ...], channels: int, rng: np.random.Generator
) -> None:
    options = {"scale": 2} if task == "super-resolution" else {}
    chosen = task_for(artifact(task, shape, other, channels=channels, **options))
    exact = {
        name: rng.standard_normal(s).astype(np.float32) for name, s in zip("yz", (shape, other), strict=True)
    }
    assert chosen.agreement(exact, exact) == pytest.approx(1.0)
    ruined = {**exact, "z": -exact["z"]}
    assert chosen.agreement(exact, ruined) < 0.9
    found = agreement_scores(chosen, [(exact, exact), (exact, ruined)])
    assert found["worst"] < 0.9
    assert found["sqnr"] == pytest.approx(10 * math.log10(2 / 4), abs=0.01)


def test_a_further_output_may_lose_what_int8_loses(rng: np.random.Generator) -> None:
    """An SQNR of 25 dB is usual for features, and no reason to refuse INT8 of a classifier."""
    chosen = task_for(artifact("classification", (1, 10), (1, 16, 4, 4)))
    exact = {name: rng.standard_normal(s).astype(np.float32) for name, s in (("y", (1, 10)), ("z", (1, 16)))}
    noisy = {**exact, "z": exact["z"] * np.float32(1 + 10 ** (-25 / 20))}
    assert 0.99 < chosen.agreement(exact, noisy) < 1


def test_another_number_of_detections_is_no_agreement() -> None:
    chosen = task_for(artifact("tensor", (1, 7), (1, 3)))
    exact = {"y": np.ones((1, 7), np.float32), "z": np.ones((3, 6), np.float32)}
    found = agreement_scores(chosen, [(exact, {**exact, "z": exact["z"][:2]})])
    assert found["agreement"] == 0
    assert found["sqnr"] == -300


def test_class_maps_agree_by_share_of_equal_elements() -> None:
    chosen = task_for(artifact("tensor", (1, 100)))
    classes = np.arange(100, dtype=np.int64)[None]
    other = classes.copy()
    other[0, :3] += 1000
    assert chosen.agreement({"y": classes}, {"y": other}) == pytest.approx(0.97)


def test_a_mean_that_chance_has_lifted_is_told_by_its_lower_bound(rng: np.random.Generator) -> None:
    task = task_for(artifact("tensor", (1, 7)))
    y = np.ones((1, 7), np.float32)
    noise = 0.01 * rng.exponential(size=16)
    found = agreement_scores(task, [({"y": y}, {"y": y * np.float32(1 - share)}) for share in noise])
    mean, sure = parse_accuracy([f"agreement>={1 - noise.mean() - 1e-4}, agreement_low>={1 - noise.mean()}"])
    assert mean.kept(found, {})
    assert not sure.kept(found, {})
    assert 1 - 2 * noise.mean() < found["agreement_low"] < found["agreement"]


def test_one_input_bounds_nothing() -> None:
    task, y = task_for(artifact("tensor", (1, 7))), np.ones((1, 7), np.float32)
    (budget,) = parse_accuracy(["agreement_low>=0.9"])
    with pytest.raises(UsageError, match="no figure called agreement_low") as caught:
        budget.kept(agreement_scores(task, [({"y": y}, {"y": y})]), {})
    assert "two inputs" in caught.value.hint


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_has_budgets_that_parse(name: str) -> None:
    task = TASKS.get(name)
    assert not any(budget.needs_labels for budget in parse_accuracy(task.budget_without_labels))
    assert parse_accuracy(task.budget_without_labels)
    assert all(budget.needs_labels for budget in parse_accuracy(task.budget))
    assert bool(task.budget) is bool(task.metric_name)
