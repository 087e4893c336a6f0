"""The one training loop: every experiment, any number of processes, exact to the step after a kill.

Nothing random survives from step to step: examples, dropout and all else are drawn from (seed, step). So a
run resumed from its checkpoint ends in the same weights, bit for bit, on the same hardware, and two processes
with half a batch each see what one sees; batch norms take their statistics over both. What an experiment's
loss takes over a batch, such as its hardest pixels, it takes over each process's share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgedeploy.core.errors import EdgeDeployError, UsageError
from edgedeploy.core.files import replacing
from edgedeploy.core.renamed import TRAINING_RECIPE, with_current_keys
from edgedeploy.models.training.experiment import Batch, make_experiment
from edgedeploy.models.training.fake_quantize import fake_quantized, rounded
from edgedeploy.models.training.processes import batches, make_fabric
from edgedeploy.models.training.recipe import TrainingRecipe
from edgedeploy.models.training.schedule import learning_rate, make_optimizer
from edgedeploy.models.training.start import first_network, settled, teacher_of
from edgedeploy.models.training.synced_norm import synchronize

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: updates made.
        losses: mean of the updates since the last report, by the objective's names; {} if there were none.
        network: what the training gives if it ends here: the averaged weights, or, in the quantized steps,
            the weights as int8 holds them (an average of weights that rounding holds apart is on no grid).
        metrics: of the experiment, where this step was evaluated.
    """

    step: int
    losses: dict[str, float]
    network: nn.Module
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Every:
    """How often a run reports and writes its checkpoint, and how often it is measured besides, in steps."""

    save: int = 500
    evaluate: int = 2000


class Training:
    """A run of a recipe on a data folder; `run()` trains and reports.

    Args:
        recipe: what is trained.
        data: folder that the experiment reads.
        checkpoint: file that holds the run's state; one that is there is resumed.
        every: when to report.
        workers: processes that prepare examples, besides this one.

    Raises UsageError where the checkpoint belongs to another recipe, or the batch cannot be shared evenly.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        data: Path,
        checkpoint: Path,
        every: Every | None = None,
        *,
        workers: int = 0,
    ) -> None:
        recipe = settled(recipe)
        self.recipe, self.checkpoint, self.every, self.workers = recipe, checkpoint, every or Every(), workers
        self.experiment = make_experiment(recipe, data)
        self.fabric = make_fabric(recipe)
        if recipe.batch % self.fabric.world_size:
            raise UsageError(
                f"a batch of {recipe.batch} cannot be shared by {self.fabric.world_size} processes",
                "set a batch that their number divides",
            )
        torch.manual_seed(recipe.seed)
        self.network = first_network(recipe)
        self.average = None
        if recipe.ema:
            self.average = AveragedModel(
                self.network, multi_avg_fn=partial(_average, recipe.ema), use_buffers=True
            )
        if self.fabric.world_size > 1:
            synchronize(self.network)
        self.teacher = teacher_of(recipe)
        self.objective = self.experiment.objective(self.network, self.teacher)
        self.optimizer = make_optimizer(recipe.optimizer, self.objective)
        self.step, self._optimizer_state = self._resume()
        if self.average is not None:
            self.average.n_averaged.fill_(self.step + 1)  # the first weights are the average's first entry

    @property
    def result(self) -> nn.Module:
        """What the training gives if it ends here; see `Progress.network`."""
        if self.step > self.recipe.steps:
            return rounded(self.network)
        return self.network if self.average is None else self.average.module

    def run(self, keep: Callable[[Progress], None] | None = None) -> Iterator[Progress]:
        """Train; reports each `every.save` and `every.evaluate` steps, the checkpoint being written, and at
        the end.

        `keep` is given every report before the checkpoint is written, so that a run killed between the two
        makes and keeps that report again. A training that is finished gives its last report again. Raises
        TrainingError where the loss is no number any more, and what the experiment finds wrong with its data;
        where it finds that while measuring, the step is kept first.
        """
        keep = keep or _nothing
        if self.step == self.recipe.all_steps:
            report = Progress(self.step, {}, self.result, self._evaluate())
            keep(report)
            yield report
            return
        module, optimizer = self._set_up()
        module.train()
        window: list[dict[str, Tensor]] = []
        for step, batch in zip(range(self.step, self.recipe.all_steps), self._batches(), strict=True):
            window.append(self._update(module, optimizer, step, batch))
            self.step = step + 1
            last = self.step == self.recipe.all_steps
            measured = self.step % self.every.evaluate == 0 or last
            if measured or self.step % self.every.save == 0:
                losses, failure = self._mean(window), None
                window.clear()
                metrics: dict[str, float] = {}
                try:
                    metrics = self._evaluate() if measured else {}
                except EdgeDeployError as error:  # of the data: the updates are not lost for that
                    failure = error
                report = Progress(self.step, losses, self.result, metrics)
                keep(report)
                self._save(optimizer)
                if failure is not None:
                    raise failure
                yield report
                module.train()

    def _set_up(self) -> tuple[Any, Any]:
        """The objective and the optimizer as Fabric runs them, and everything on its device."""
        module, optimizer = self.fabric.setup(self.objective, self.optimizer)
        if self._optimizer_state is not None:  # now: its tensors follow the parameters
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        for other in (self.average, self.teacher):
            if other is not None:
                other.to(self.fabric.device)
        return module, optimizer

    def close(self) -> None:
        """Let processes that share the work end together: one that left early would abort the others."""
        if torch.distributed.is_initialized():
            self.fabric.barrier()
            torch.distributed.destroy_process_group()

    def _update(self, module: Any, optimizer: Any, step: int, batch: Batch) -> dict[str, Tensor]:
        recipe = self.recipe
        torch.manual_seed(hash((recipe.seed, step, self.fabric.global_rank)) & 0x7FFFFFFF)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        if recipe.channels_last:
            batch = tuple(_channels_last(tensor) for tensor in batch)
        with fake_quantized(self.network) if step >= recipe.steps else nullcontext():
            losses: dict[str, Tensor] = self._losses(module, batch)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(losses["loss"])
        if recipe.clip:
            self.fabric.clip_gradients(module, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return {name: value.detach() for name, value in losses.items()}

    def _losses(self, module: Any, batch: Batch) -> dict[str, Tensor]:
        try:
            losses: dict[str, Tensor] = module(*self.fabric.to_device(batch))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            share = self.recipe.batch // self.fabric.world_size
            raise UsageError(
                f"{self.recipe.model} cannot normalize over {share} example", "set batch=2 or more"
            ) from None
        return losses

    def _batches(self) -> Iterator[Batch]:
        share = range(self.fabric.global_rank, self.recipe.batch, self.fabric.world_size)
        steps = range(self.step, self.recipe.all_steps)
        return batches(self.experiment, steps, share, self.workers)

    def _mean(self, window: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        means = {name: torch.stack([losses[name].float() for losses in window]).mean() for name in window[0]}
        values = {name: cast(Tensor, self.fabric.all_reduce(mean)).item() for name, mean in means.items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(
                f"the loss is {values['loss']} before step {self.step}",
                "lower optimizer.learning_rate, or set clip=1",
            )
        return values

    def _evaluate(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        try:
            if self.fabric.is_global_zero:
                result = self.result.eval()
                with torch.no_grad():
                    metrics = self.experiment.evaluate(result)
        finally:
            self.fabric.barrier()
        return metrics

    def _save(self, optimizer: Any) -> None:
        if self.fabric.is_global_zero:
            state: dict[str, Any] = {
                "recipe": self.recipe.model_dump_json(),
                "step": self.step,
                "objective": self.objective.state_dict(),
                "optimizer": optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                # For whoever loads the file as weights. torch.save writes a tensor once, whatever its names.
                "result": self.result.state_dict(),
            }
            if self.average is not None:
                state["average"] = self.average.module.state_dict()
            with replacing(self.checkpoint) as temporary:
                torch.save(state, temporary)
        self.fabric.barrier()

    def _resume(self) -> tuple[int, dict[str, Any] | None]:
        """The step to go on from, and what the optimizer knew then."""
        if not self.checkpoint.exists():
            return 0, None
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not self._is_own(state.get("recipe")):
            raise UsageError(f"{self.checkpoint} belongs to another recipe", "train into another folder")
        self.objective.load_state_dict(state["objective"])
        if state["precision"]:  # the scale of fp16's gradients
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        return int(state["step"]), state["optimizer" if "optimizer" in state else "optimiser"]

    def _is_own(self, recipe: Any) -> bool:
        """Whether a checkpoint's recipe, JSON of this release or the one before, is that of this run."""
        if not isinstance(recipe, str):
            return False
        current = with_current_keys(json.loads(recipe), TRAINING_RECIPE, where="")
        return bool(current == json.loads(self.recipe.model_dump_json()))


def _nothing(report: Progress) -> None: ...


class TrainingError(EdgeDeployError):
    """A training that cannot go on."""

    exit_code = 4


def _average(decay: float, averages: Tensors, values: Tensors, count: Tensor | int) -> None:
    """Exponential averages of parameters and buffers, over fewer steps as long as there were few.

    With `decay` from the first step on, a short run keeps percents of the batch statistics of its first
    steps, which may be a thousand times as large as those of the last.
    """
    taken = int(count)
    share = 1 - min(decay, (1 + taken) / (10 + taken))
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.lerp_(value, share)
        else:
            average.copy_(value)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
