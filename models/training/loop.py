"""The training loop of all experiments, for any number of processes; resumes exactly.

All random numbers are drawn from (seed, step). So a resumed run ends in the same weights, bit for bit, on the
same hardware. Two processes with half a batch each see the examples of one process, and batch norms take
their statistics over both. Batch statistics of a loss, such as its hardest pixels, cover a process's share.
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
from edgedeploy.models.training.start import first_network, teacher_of, with_options_of_weights
from edgedeploy.models.training.synced_norm import synchronize

Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Progress:
    """Report of a training.

    Attributes:
        step: updates so far.
        losses: mean over the updates since the last report, by the objective's names; {} without updates.
        network: the result at this step: the averaged weights or, in the quantized steps, the current weights
            rounded to int8 (an average of them is on no int8 grid).
        metrics: of the experiment, where this step was evaluated.
    """

    step: int
    losses: dict[str, float]
    network: nn.Module
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Every:
    """Steps between reports with a checkpoint, and between evaluations."""

    save: int = 500
    evaluate: int = 2000


class Training:
    """A run of a recipe on a data folder; `run()` trains and reports.

    Args:
        recipe: of the training.
        data: folder that the experiment reads.
        checkpoint: file of the run's state; an existing one is resumed.
        every: when to report.
        workers: additional processes that prepare examples.

    Raises UsageError for a checkpoint of another recipe, and where the processes do not divide the batch.
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
        recipe = with_options_of_weights(recipe)
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
            self.average.n_averaged.fill_(self.step + 1)  # counting the initial weights

    @property
    def result(self) -> nn.Module:
        """The result at this step; see `Progress.network`."""
        if self.step > self.recipe.steps:
            return rounded(self.network)
        return self.network if self.average is None else self.average.module

    def run(self, keep: Callable[[Progress], None] | None = None) -> Iterator[Progress]:
        """Train; yields a report every `every.save` and `every.evaluate` steps, after its checkpoint, and at
        the end.

        `keep` receives each report before the checkpoint is written: a run killed in between repeats it. A
        finished training yields its last report again. Raises TrainingError for a loss that is not finite,
        and the experiment's errors about its data; those of the evaluation follow the checkpoint.
        """
        keep = keep or (lambda _report: None)
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
                except EdgeDeployError as error:  # about the data: keep the updates first
                    failure = error
                report = Progress(self.step, losses, self.result, metrics)
                keep(report)
                self._save(optimizer)
                if failure is not None:
                    raise failure
                yield report
                module.train()

    def _set_up(self) -> tuple[Any, Any]:
        """The objective and the optimizer in Fabric's wrappers; moves everything to the device."""
        module, optimizer = self.fabric.setup(self.objective, self.optimizer)
        if self._optimizer_state is not None:  # only now: its tensors follow the parameters
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        for other in (self.average, self.teacher):
            if other is not None:
                other.to(self.fabric.device)
        return module, optimizer

    def close(self) -> None:
        """Wait for the other processes: one that ends early would abort them."""
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
                # For `load_weights`. torch.save writes a shared tensor once.
                "result": self.result.state_dict(),
            }
            if self.average is not None:
                state["average"] = self.average.module.state_dict()
            with replacing(self.checkpoint) as temporary:
                torch.save(state, temporary)
        self.fabric.barrier()

    def _resume(self) -> tuple[int, dict[str, Any] | None]:
        """The step to resume from, and the state of the optimizer."""
        if not self.checkpoint.exists():
            return 0, None
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not self._is_own(state.get("recipe")):
            raise UsageError(f"{self.checkpoint} belongs to another recipe", "train into another folder")
        self.objective.load_state_dict(state["objective"])
        if state["precision"]:  # scale of fp16 gradients
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        return int(state["step"]), state["optimizer" if "optimizer" in state else "optimiser"]

    def _is_own(self, recipe: Any) -> bool:
        """Whether a checkpoint's recipe, JSON of this or the previous release, is this run's."""
        if not isinstance(recipe, str):
            return False
        current = with_current_keys(json.loads(recipe), TRAINING_RECIPE, where="")
        return bool(current == json.loads(self.recipe.model_dump_json()))


class TrainingError(EdgeDeployError):
    """A training that cannot continue."""

    exit_code = 4


def _average(decay: float, averages: Tensors, values: Tensors, count: Tensor | int) -> None:
    """Exponential averages of parameters and buffers, over fewer steps at first.

    With a constant `decay`, a short run would keep a few percent of its first batch statistics, which may be
    a thousand times as large as the last ones.
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
