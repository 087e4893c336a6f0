"""Initial network of a training, fresh, from a file or with another network's trunk; and its teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgedeploy.models.checkpoint import describe, load_for_training, load_trunk, load_weights
from edgedeploy.models.registry import create_model
from edgedeploy.models.training.recipe import TrainingRecipe


def with_options_of_weights(recipe: TrainingRecipe) -> TrainingRecipe:
    """The recipe with the options described in its `weights`; its own options take precedence.

    The network is built with them, and the description of the new weights holds them too.
    """
    if not recipe.weights:
        return recipe
    known = describe(recipe.model, recipe.weights)
    options, task = {**known.options, **recipe.options}, {**known.task, **recipe.task}
    return recipe.model_copy(update={"options": options, "task": task})


def first_network(recipe: TrainingRecipe) -> nn.Module:
    """The network before the first update; random weights come from torch's generator."""
    if recipe.initialize:
        network = load_trunk(recipe.model, Path(recipe.initialize), **recipe.options).model
    elif recipe.weights:
        network = load_for_training(recipe.model, recipe.weights, **recipe.options).model
    else:
        network = create_model(recipe.model, **recipe.options)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # pyright: ignore
    return network


def teacher_of(recipe: TrainingRecipe) -> nn.Module | None:
    """The recipe's teacher in eval mode and frozen, or None."""
    if recipe.teacher is None:
        return None
    teacher = load_weights(recipe.teacher.model, recipe.teacher.weights, **recipe.teacher.options)
    return teacher.eval().requires_grad_(False)
