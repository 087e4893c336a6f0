"""The learning rate of every step, and the optimizer: pure functions of the recipe."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgedeploy.models.training.recipe import Optimizer, TrainingRecipe
from edgedeploy.models.training.soap import Soap


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Of update number `step`: warm-up, then the schedule; the quantized steps have a cosine of their own."""
    if recipe.quantized_steps and step >= recipe.steps:
        done = (step - recipe.steps) / recipe.quantized_steps
        return cosine(recipe.quantized_learning_rate, recipe.quantized_final, done)
    top, schedule = recipe.optimizer.learning_rate, recipe.schedule
    if step < schedule.warmup:
        return top * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, recipe.steps - schedule.warmup)
    if schedule.name == "cosine":
        return cosine(top, top * schedule.final, done)
    if schedule.name == "poly":
        return float(top * (schedule.final + (1 - schedule.final) * (1 - done) ** schedule.power))
    if schedule.name == "step":
        passed = sum(step >= share * recipe.steps for share in schedule.milestones)
        return float(top * schedule.gamma**passed)
    return top


def make_optimizer(settings: Optimizer, module: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all trainable parameters of `module`."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if settings.decay_all or p.ndim > 1]
    others = [p for p in parameters if not (settings.decay_all or p.ndim > 1)]
    both = ((decayed, settings.weight_decay), (others, 0.0))
    groups = [{"params": group, "weight_decay": decay} for group, decay in both if group]
    rate = settings.learning_rate
    if settings.name == "sgd":
        return torch.optim.SGD(groups, rate, momentum=settings.momentum)
    if settings.name == "adam":
        return torch.optim.Adam(groups, rate, betas=settings.betas)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, rate, betas=settings.betas)
    return Soap(parameters, lr=rate)


def cosine(first: float, last: float, done: float) -> float:
    """Cosine schedule from `first` to `last`; `done` is the progress, 0 to 1."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * done))
