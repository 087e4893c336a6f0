"""Train a luma super-resolution model from folders of photographs.

The mean PSNR of patches as loss, SOAP with a cosine schedule, averaged weights; at the end with 8-bit
rounding in the network, so that INT8 loses little. A training that was killed goes on from its checkpoint to
the same weights, bit for bit. Run as `python -m edgedeploy.models.training.super_resolution
models/recipes/espcn_x3.yaml --data DIR --out FILE`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from edgedeploy.core.errors import EdgeDeployError, UsageError
from edgedeploy.core.files import replacing, write_bytes
from edgedeploy.models.registry import create_model
from edgedeploy.models.training.fake_quantise import fake_quantised, rounded
from edgedeploy.models.training.patches import draw_batch, load_pairs
from edgedeploy.models.training.recipe import TrainingRecipe
from edgedeploy.models.training.soap import Soap


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: updates made.
        error: mean squared error over the updates since the last report; nan if there were none.
        model: what the training gives if it ends here: the averaged weights, or, in the quantised steps, the
            weights as int8 holds them (the average of weights that rounding holds apart lies on no grid).
    """

    step: int
    error: float
    model: nn.Module


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to the final rate; another cosine for the quantised steps."""
    if recipe.quantised_steps and step >= recipe.steps:
        return _cosine(
            recipe.quantised_learning_rate,
            recipe.final_learning_rate,
            (step - recipe.steps) / recipe.quantised_steps,
        )
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return _cosine(recipe.learning_rate, recipe.final_learning_rate, progress)


def _cosine(first: float, last: float, progress: float) -> float:
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * progress))


def patch_loss(output: Tensor, target: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Loss of a batch (N, 1, H, W): mean of ln(MSE + floor) over its patches; and the MSE of each.

    This is the PSNR that results are measured by, an average of logarithms, in which a smooth picture counts
    as much as a busy one; `floor` keeps flat patches, whose error is next to nothing, from taking over.
    """
    errors = (output - target).square().mean((1, 2, 3))
    return (errors + floor).log().mean(), errors.detach()


def train(recipe: TrainingRecipe, data: Path, checkpoint: Path, save_every: int = 2000) -> Iterator[Progress]:
    """Train, and report each `save_every` steps, the checkpoint being written; the last is the result.

    A checkpoint that is already there is resumed; raises UsageError where it belongs to another recipe.
    """
    torch.manual_seed(recipe.seed)
    model, average = create_model(recipe.model), create_model(recipe.model)
    average.load_state_dict(model.state_dict())
    optimiser = Soap(model.parameters(), lr=recipe.learning_rate)
    parts: dict[str, Any] = {"model": model, "average": average, "optimiser": optimiser}
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != recipe.model_dump_json():
            raise UsageError(f"{checkpoint} belongs to another recipe", "remove it to start afresh")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start = state["step"]
    if start == recipe.all_steps:
        yield Progress(start, math.nan, _result(recipe, start, model, average))
    pairs = load_pairs(data, recipe)
    errors: list[float] = []
    for step in range(start, recipe.all_steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        low, high = draw_batch(pairs, recipe, step)
        with fake_quantised(model) if step >= recipe.steps else nullcontext(model) as network:
            loss, patch_errors = patch_loss(network(low), high, recipe.floor)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - recipe.ema)
        errors.append(patch_errors.mean().item())
        if (step + 1) % save_every == 0 or step + 1 == recipe.all_steps:
            states = {name: part.state_dict() for name, part in parts.items()}
            with replacing(checkpoint) as temporary:
                torch.save({"recipe": recipe.model_dump_json(), "step": step + 1, **states}, temporary)
            result = _result(recipe, step + 1, model, average)
            yield Progress(step + 1, sum(errors) / len(errors), result)
            errors.clear()


def _result(recipe: TrainingRecipe, step: int, model: nn.Module, average: nn.Module) -> nn.Module:
    return rounded(model) if step > recipe.steps else average


def main() -> None:
    """Command line of `train`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the recipe's folders")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--checkpoint", type=Path, help="default: OUT with the suffix .ckpt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    begin = time.perf_counter()
    try:
        recipe = TrainingRecipe.load(arguments.recipe)
        checkpoint = arguments.checkpoint or arguments.out.with_suffix(".ckpt")
        for progress in train(recipe, arguments.data, checkpoint):
            psnr, seconds = -10 * math.log10(progress.error), time.perf_counter() - begin
            print(f"step {progress.step}/{recipe.all_steps}  PSNR {psnr:.3f} dB  {seconds:.0f} s", flush=True)
            if progress.step == recipe.all_steps:
                write_bytes(arguments.out, save(progress.model.state_dict()))
    except EdgeDeployError as error:
        raise SystemExit(f"error: {error}\nhint: {error.hint}") from None


if __name__ == "__main__":
    main()
