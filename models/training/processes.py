"""Processes of a training, by Lightning Fabric: one, or those of `torchrun`; and the workers for examples.

CUDA is used where available; training on a GPU is not verified.
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
    """A single process, or one of those of `torchrun`, which sets environment variables."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    # Not "auto": Apple's GPUs have no float64, which SOAP needs.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world == 1:
        return Fabric(accelerator=device, devices=1, plugins=_precision(recipe, device))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        # Not every step uses every parameter: heads of training, unused tokens.
        strategy=DDPStrategy(find_unused_parameters=True),
        plugins=_precision(recipe, device),
    )
    fabric.launch()
    return fabric


class _Autocast(MixedPrecision):
    """Leaves rounding to autocast; Fabric's own class rounds all inputs of a step, labels too."""

    def convert_input(self, data: Any) -> Any:
        return data


def _precision(recipe: TrainingRecipe, device: str) -> Precision:
    return Precision() if recipe.precision == "32-true" else _Autocast(recipe.precision, device=device)


def batches(
    experiment: Experiment[Any], steps: Sequence[int], positions: Sequence[int], workers: int
) -> Iterator[Batch]:
    """The examples at `positions` of the batch of each step, prepared by `workers` processes.

    Raises the experiment's errors about its data.
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

    An error is returned: raised in another process, it would become a traceback without its hint.
    """

    def __init__(self, experiment: Experiment[Any], positions: Sequence[int]) -> None:
        self.experiment, self.positions = experiment, positions

    def __getitem__(self, step: int) -> Batch | EdgeDeployError:
        try:
            return self.experiment.batch(step, self.positions)
        except EdgeDeployError as error:
            return error
