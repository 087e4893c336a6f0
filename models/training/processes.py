"""The processes of a training, by Lightning Fabric: one, or those of `torchrun`; and who prepares examples.

A GPU is taken where CUDA has one. No machine that this was developed on has: not verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.utils.data import DataLoader, Dataset

from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.models.training.experiment import Batch, Experiment
from edgedeploy.models.training.recipe import TrainingRecipe


def make_fabric(recipe: TrainingRecipe) -> Fabric:
    """One process, or one of those that `torchrun` started and told so by environment variables."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    # Not "auto": on Apple's GPUs there is no float64, which SOAP computes in.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world == 1:
        return Fabric(accelerator=device, devices=1, plugins=_precision(recipe, device))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        # Not every network uses every parameter in every step: heads of training, tokens that nothing reads.
        strategy=DDPStrategy(find_unused_parameters=True),
        plugins=_precision(recipe, device),
    )
    fabric.launch()
    return fabric


class _Autocast(MixedPrecision):
    """Autocast alone says what is rounded; Fabric's own rounds all that a step is given, labels too."""

    def convert_input(self, data: Any) -> Any:
        return data


def _precision(recipe: TrainingRecipe, device: str) -> Precision:
    return Precision() if recipe.precision == "32-true" else _Autocast(recipe.precision, device=device)


def batches(
    experiment: Experiment[Any], steps: Sequence[int], positions: Sequence[int], workers: int
) -> Iterator[Batch]:
    """The examples at `positions` of the batch of each step, prepared by other processes if there are any.

    What the experiment finds wrong with its data is raised here.
    """
    loader = DataLoader(
        _Steps(experiment, positions),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    for batch in loader:
        if isinstance(batch, EdgeDeployError):
            raise batch
        yield tuple(batch)


class _Steps(Dataset[Any]):
    """The batches of a training by step number, this process's share of each.

    An error is returned: raised in another process, it would come back as a traceback without its hint.
    """

    def __init__(self, experiment: Experiment[Any], positions: Sequence[int]) -> None:
        self.experiment, self.positions = experiment, positions

    def __getitem__(self, step: int) -> Batch | EdgeDeployError:
        try:
            return self.experiment.batch(step, self.positions)
        except EdgeDeployError as error:
            return error
