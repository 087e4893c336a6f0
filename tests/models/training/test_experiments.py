"""What holds of every experiment: examples follow from (seed, step, position), it learns and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models.checkpoint import load_weights
from edgedeploy.models.training.experiment import EXPERIMENTS, make_experiment
from edgedeploy.models.training.loop import Every, Training
from edgedeploy.models.training.runs import Run
from tests.support.experiments import CASES, drawn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")


def test_every_experiment_has_a_case() -> None:
    assert set(EXPERIMENTS.names()) == {name.partition(" ")[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_examples_follow_from_seed_step_and_position(name: str, tmp_path: Path) -> None:
    data, recipe = drawn(name, tmp_path), CASES[name].recipe()
    one, other = make_experiment(recipe, data), make_experiment(recipe, data)
    positions = list(range(recipe.batch))
    whole = one.batch(3, positions)
    other.batch(0, positions[:1])
    parts = [other.batch(3, positions[first::2]) for first in (0, 1)]
    for index, column in enumerate(whole):
        assert torch.equal(column[0::2], parts[0][index])
        assert torch.equal(column[1::2], parts[1][index])
    assert not torch.equal(whole[0], one.batch(4, positions)[0])
    reseeded = make_experiment(recipe.model_copy(update={"seed": 1}), data)
    assert not torch.equal(whole[0], reseeded.batch(3, positions)[0])


@pytest.mark.parametrize("name", CASES)
def test_half_precision_rounds_neither_images_nor_targets_that_a_loss_is_given(
    name: str, tmp_path: Path
) -> None:
    recipe, given = CASES[name].recipe(steps=1, precision="bf16-mixed"), []
    training = Training(recipe, drawn(name, tmp_path), tmp_path / "x.ckpt", Every(1, 10**6))
    training.objective.register_forward_pre_hook(lambda _, batch: given.append(batch))
    *_, last = training.run()
    assert last.losses["loss"] == last.losses["loss"]  # a number
    for column, wanted in zip(given[0], training.experiment.batch(0, range(recipe.batch)), strict=True):
        assert torch.equal(column, wanted)


# Of the other experiments another test, which is not slow, sees that they learn.
LEARN = ("segmentation", "classification binary", "face-embedding", "disc-cup")


@pytest.mark.parametrize(
    "name", [name if name in LEARN else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_the_loss_falls(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    recipe = case.recipe(steps=case.steps, optimizer={"name": "adamw", "learning_rate": case.rate})
    every = max(1, case.steps // 5)
    first, *later = Training(recipe, drawn(name, tmp_path), tmp_path / "x.ckpt", Every(every, 10**6)).run()
    # The least: a single step's loss jumps, and where it jumps hangs on the CPU's rounding.
    assert min(entry.losses[case.loss] for entry in later) < case.falls * first.losses[case.loss]


@pytest.mark.parametrize("name", [name for name in CASES if name != "classification archives"])
def test_a_training_that_stopped_at_any_step_ends_as_one_that_ran_through(name: str, tmp_path: Path) -> None:
    data, recipe = drawn(name, tmp_path), CASES[name].recipe(steps=3, ema=0.5)
    *_, whole = Training(recipe, data, tmp_path / "whole.ckpt", Every(100, 100)).run()
    expected = whole.network.state_dict()
    for _ in range(3):  # a process for each step
        part = Training(recipe, data, tmp_path / "part.ckpt", Every(1, 100)).run()
        last = next(part)
        part.close()
    for key, value in last.network.state_dict().items():
        assert torch.equal(expected[key], value), key
    assert last.metrics == whole.metrics


@pytest.mark.parametrize("name", CASES)
def test_a_run_leaves_weights_that_load_by_file_and_a_picture(name: str, tmp_path: Path) -> None:
    data, recipe = drawn(name, tmp_path), CASES[name].recipe(steps=2)
    run = Run(recipe, data, tmp_path / "run", every=Every(2, 2))
    *_, last = run.train()
    assert (tmp_path / "run" / "sheet.png").stat().st_size > 1000
    metric = last.metrics[run.experiment.metric]
    assert 0 <= metric <= CASES[name].best
    network = load_weights(recipe.model, tmp_path / "run" / "last.safetensors")
    assert run.experiment.evaluate(network)[run.experiment.metric] == pytest.approx(metric)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segmentation", "has no images in train"),
        ("classification", "has no classes to train on"),
        ("face-embedding", "holds no folders of people"),
        ("disc-cup", "holds no images/ and masks/"),
        ("text-detection", "has no train_images/"),
        ("super-resolution", "has no image"),
    ],
)
def test_an_empty_folder_is_told_what_belongs_there(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        make_experiment(CASES[name].recipe(), tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_settings_that_an_experiment_has_not_are_named(name: str, tmp_path: Path) -> None:
    recipe = CASES[name].recipe({"color": 3})
    with pytest.raises(RecipeError, match="color"):
        make_experiment(recipe, drawn(name, tmp_path))


@pytest.mark.parametrize("name", ["face-embedding", "disc-cup", "text-detection", "super-resolution"])
def test_a_teacher_is_refused_where_there_is_nothing_to_learn(name: str, tmp_path: Path) -> None:
    recipe = CASES[name].recipe(teacher={"model": "x", "weights": "y"})
    with pytest.raises(RecipeError, match="has no teacher"):
        make_experiment(recipe, drawn(name, tmp_path))
