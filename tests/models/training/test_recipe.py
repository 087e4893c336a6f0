"""Recipes as data, and what follows from them alone: learning rates and optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.models import MODELS
from edgedeploy.models.training.experiment import EXPERIMENTS
from edgedeploy.models.training.recipe import (
    Optimizer,
    TrainingRecipe,
    bundled_recipes,
    find_recipe,
    validated,
)
from edgedeploy.models.training.schedule import learning_rate, make_optimizer
from tests.support.training_runs import upscaling


def rates(steps: int = 100, top: float = 1e-2, **schedule: Any) -> list[float]:
    recipe = upscaling(steps=steps, optimizer={"name": "sgd", "learning_rate": top}, schedule=schedule)
    return [learning_rate(recipe, step) for step in range(steps)]


def test_cosine_rises_then_falls_to_its_end() -> None:
    found = rates(warmup=10, final=0.01)
    assert found[0] == pytest.approx(1e-3)
    assert found[10] == pytest.approx(1e-2)
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[55] == pytest.approx((1e-2 + 1e-4) / 2)
    assert found[-1] == pytest.approx(1e-4, rel=0.1)


def test_poly_is_the_released_formula() -> None:
    assert rates(name="poly", power=0.9)[40] == pytest.approx(1e-2 * (1 - 40 / 100) ** 0.9)


def test_step_falls_at_each_milestone() -> None:
    found = rates(name="step", milestones=(0.5, 0.8), gamma=0.1)
    assert found[49] == 1e-2
    assert found[50] == pytest.approx(1e-3)
    assert found[80] == pytest.approx(1e-4)


def test_the_quantized_steps_have_a_cosine_of_their_own() -> None:
    recipe = upscaling(steps=100, quantized_steps=50, schedule={"final": 0.001}, quantized_final=1e-5)
    assert recipe.all_steps == 150
    assert learning_rate(recipe, 99) < 2e-5
    assert learning_rate(recipe, 100) == pytest.approx(recipe.quantized_learning_rate)
    assert learning_rate(recipe, 149) < 2e-5
    assert all(learning_rate(recipe, s) > learning_rate(recipe, s + 1) for s in range(100, 149))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "soap"])
@pytest.mark.parametrize("everything", [False, True])
def test_weight_decay_spares_vectors_unless_told_otherwise(name: Any, everything: bool) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decay = {} if name == "soap" else {"weight_decay": 0.5, "decay_all": everything}  # soap takes none
    optimizer = make_optimizer(Optimizer(name=name, learning_rate=1.0, **decay), net)
    decayed = {id(p) for g in optimizer.param_groups for p in g["params"] if g.get("weight_decay")}
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in net.parameters()}
    if name != "soap":
        assert decayed == {id(p) for p in net.parameters() if everything or p.ndim > 1}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_a_model_names_its_only_recipe() -> None:
    assert find_recipe("slab_deit_tiny").stem == "slab_deit_tiny-imagenet"
    with pytest.raises(RecipeError, match="slab_deit_micro has 2 recipes") as caught:
        find_recipe("slab_deit_micro")
    assert "slab_deit_micro-cifar10, slab_deit_micro-imagenette" in caught.value.hint
    assert find_recipe("espcn_x3").stem == "espcn_x3"


MINIMAL = (
    "experiment: super-resolution, model: m, steps: 5, batch: 1, optimizer: {name: adam, learning_rate: 1}"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{{{MINIMAL}, lr: 1}}", "lr: Extra inputs"),
        (
            "{experiment: e, model: m, batch: 1, optimizer: {name: adam, learning_rate: 1}}",
            "steps: Field required",
        ),
        (f"{{{MINIMAL}, schedule: {{name: sine}}}}", r"schedule\.name"),
        ("[", "is not a recipe"),
        ("[1]", "holds no fields"),
    ],
)
def test_recipe_at_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        TrainingRecipe.load(tmp_path / "r.yaml")


def test_edits_change_one_field_each(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"{{{MINIMAL}}}")
    edited = TrainingRecipe.load(tmp_path / "r.yaml", ["steps=9", "schedule.name=poly", "settings.scale=3"])
    assert (edited.steps, edited.schedule.name, edited.settings) == (9, "poly", {"scale": 3})
    with pytest.raises(RecipeError, match="is not an edit"):
        TrainingRecipe.load(tmp_path / "r.yaml", ["steps"])
    with pytest.raises(RecipeError, match="steps has no fields"):
        TrainingRecipe.load(tmp_path / "r.yaml", ["steps.more=1"])


def test_unknown_recipe_is_answered_with_a_close_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="espcn_x9") as caught:
        TrainingRecipe.load("espcn_x9")
    assert "espcn_x" in caught.value.hint
    with pytest.raises(RecipeError, match="does not exist"):
        TrainingRecipe.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", bundled_recipes())
def test_recipes_of_the_package_are_valid(name: str) -> None:
    recipe = TrainingRecipe.load(name)
    assert name.partition("-")[0] == recipe.model
    MODELS.get(recipe.model).build(**recipe.options)
    settings = validated(EXPERIMENTS.get(recipe.experiment).settings_type, recipe.settings, name)
    assert getattr(settings, "scale", None) in (
        MODELS.get(recipe.model).task.options.get("scale"),
        getattr(settings, "scale", None),
    )
