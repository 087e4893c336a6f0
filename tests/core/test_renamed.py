"""Keys of the release before: they work, and a notice names the new key."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from edgedeploy.core.errors import RecipeError
from edgedeploy.core.renamed import RenamedNotice
from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.training.recipe import TrainingRecipe, bundled_recipes

OLD = """
experiment: super-resolution
model: espcn_x2
steps: 4
batch: 2
optimiser: {name: soap, learning_rate: 0.003}
quantised_steps: 2
"""


def test_an_old_training_recipe_is_read_with_a_notice_for_each_key(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    with pytest.warns(RenamedNotice) as notices:
        recipe = TrainingRecipe.load(path, ["optimiser.learning_rate=0.5"])
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.quantized_steps == 2
    texts = [str(notice.message) for notice in notices]
    assert len(texts) == 3
    assert "'optimiser' is now 'optimizer'" in texts[0]


def test_old_and_new_key_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(OLD + "quantized_steps: 3\n")
    with pytest.warns(RenamedNotice), pytest.raises(RecipeError, match="quantised_steps"):
        TrainingRecipe.load(path)


def test_bundled_recipes_use_current_keys() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in bundled_recipes():
            TrainingRecipe.load(name)


def test_an_artifact_of_the_release_before_says_its_color() -> None:
    assert TaskSpec(name="super-resolution", options={"colour": "rgb"}).options == {"color": "rgb"}
