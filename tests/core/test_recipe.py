"""Recipes are validated once and changed only by edits."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.renamed import RenamedNotice


def test_edits_reach_nested_fields_and_leave_the_original_alone() -> None:
    recipe = Recipe()
    edited = recipe.edited(["capture.height=384", "calibration.method=minmax", "optimize.argmax=true"])
    assert (edited.capture.height, edited.calibration.method, edited.optimize.argmax) == (384, "minmax", True)
    assert recipe == Recipe()


def test_edits_of_method_options_are_free_form() -> None:
    assert Recipe().edited(["calibration.options.bins=4096"]).calibration.options == {"bins": 4096}


def test_recipes_round_trip_as_json() -> None:
    recipe = Recipe().edited(["precision=int8", 'optimize.skip=["fold-pad"]'])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().precision = "int8"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("edit", "kind", "says"),
    [
        ("capture.hight=3", UnknownNameError, "capture.hight"),
        ("captur.height=3", UnknownNameError, "captur.height"),
        ("capture.height.pixels=3", UnknownNameError, "capture.height.pixels"),
        ("capture.height", RecipeError, "not an edit"),
        ("capture.height=-1", RecipeError, "capture.height"),
        ("capture.opset=11", RecipeError, "capture.opset"),
        ("precision=int3", RecipeError, "precision"),
    ],
)
def test_wrong_edits_say_what_is_wrong(edit: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says.replace(".", r"\.")):
        Recipe().edited([edit])


def test_a_misspelled_field_gets_its_neighbor_as_hint() -> None:
    with pytest.raises(UnknownNameError) as caught:
        Recipe().edited(["capture.hight=3"])
    assert "capture.height" in caught.value.hint


def test_a_list_that_is_none_gets_its_notation_as_hint() -> None:
    with pytest.raises(RecipeError, match=r"optimize\.skip") as caught:
        Recipe().edited(["optimize.skip=fold-pad"])
    assert """optimize.skip='["fold-pad"]'""" in caught.value.hint
    assert Recipe().edited(['optimize.skip=["fold-pad"]']).optimize.skip == ("fold-pad",)


def test_the_old_section_name_works_with_a_notice() -> None:
    with pytest.warns(RenamedNotice, match="'surgery' is now 'optimize'"):
        edited = Recipe().edited(["surgery.seeds=5"])
    assert edited.optimize.seeds == 5


def test_python_values_reach_the_recipe_as_they_are() -> None:
    edited = Recipe().changed({"optimize.skip": ("fold-pad",), "precision": "int8", "capture.height": None})
    assert (edited.optimize.skip, edited.precision, edited.capture.height) == (("fold-pad",), "int8", None)
