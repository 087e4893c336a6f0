"""What a training begins from: fresh weights, those of a file, another network's trunk; and its teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgedeploy.models.checkpoint import describe, load_for_training, load_trunk, load_weights
from edgedeploy.models.registry import create_model
from edgedeploy.models.training.recipe import TrainingRecipe


def settled(recipe: TrainingRecipe) -> TrainingRecipe:
    """The recipe with the options that its `weights` say they need, where it does not set them itself.

    A network is built with them, and the new weights have to say so in their turn.
    """
    if not recipe.weights:
        return recipe
    said = describe(recipe.model, recipe.weights)
    return recipe.model_copy(
        update={"options": {**said.options, **recipe.options}, "task": {**said.task, **recipe.task}}
    )


def first_network(recipe: TrainingRecipe) -> nn.Module:
    """The network before the first update; random weights are of torch's generator."""
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
    """The network to learn from, in eval mode and frozen; None where there is none."""
    if recipe.teacher is None:
        return None
    teacher = load_weights(recipe.teacher.model, recipe.teacher.weights, **recipe.teacher.options)
    return teacher.eval().requires_grad_(False)
