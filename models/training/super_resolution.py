"""Train a luma super-resolution model from a folder of photographs.

Every batch is a pure function of (seed, step): patches are drawn by a generator seeded with both, so a run that was
killed and resumed continues with exactly the batches that it would have seen. Run as
`python -m edgedeploy.models.training.super_resolution models/recipes/espcn_x3.yaml --data DIR --out FILE`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgedeploy.models import create_model
from edgedeploy.models.training.soap import Soap
from edgedeploy.tasks.colour import luma_from_rgb

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the resulting weights, as read from models/recipes/*.yaml."""

    model: str
    scale: int
    folders: tuple[str, ...]
    steps: int
    batch: int = 16
    patch: int = 24
    learning_rate: float = 3e-3
    final_learning_rate: float = 3e-5
    warmup: int = 500
    ema: float = 0.999
    seed: int = 0
    shrink: tuple[float, ...] = (1.0,)

    @staticmethod
    def load(path: Path) -> Recipe:
        fields = yaml.safe_load(path.read_text())
        for name in ("folders", "shrink"):
            if name in fields:
                fields[name] = tuple(fields[name])
        return Recipe(**fields)


def load_pairs(root: Path, recipe: Recipe) -> list[tuple[Tensor, Tensor]]:
    """Low- and high-resolution luma of every image, (H, W) and (s*H, s*W), float32 in [0, 1].

    The low-resolution image is made as test sets are: antialiased bicubic (a = -0.5) on 8-bit RGB, luma afterwards.
    `shrink` adds copies at smaller sizes, which multiplies the fine detail that a small set offers.
    """
    pairs = []
    for folder in recipe.folders:
        files = sorted(p for p in (root / folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise FileNotFoundError(f"no images in {root / folder}")
        for file in files:
            original = Image.open(file).convert("RGB")
            for factor in recipe.shrink:
                image = original
                if factor != 1.0:
                    size = (round(original.width * factor), round(original.height * factor))
                    image = original.resize(size, Image.Resampling.BICUBIC)
                width, height = image.width // recipe.scale, image.height // recipe.scale
                if min(width, height) < recipe.patch:
                    continue
                high = image.crop((0, 0, width * recipe.scale, height * recipe.scale))
                low = high.resize((width, height), Image.Resampling.BICUBIC)
                lumas = [torch.from_numpy(luma_from_rgb(np.asarray(x))) for x in (low, high)]
                pairs.append((lumas[0], lumas[1]))
    return pairs


def draw_batch(pairs: list[tuple[Tensor, Tensor]], recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The batch of this step: random patches with random flips and transposition, (N, 1, h, w) each."""
    rng = np.random.default_rng([recipe.seed, step])
    areas = np.array([low.numel() for low, _ in pairs], dtype=np.float64)
    lows, highs = [], []
    p, s = recipe.patch, recipe.scale
    for index in rng.choice(len(pairs), size=recipe.batch, p=areas / areas.sum()):
        low, high = pairs[index]
        y, x = (int(rng.integers(0, n - p + 1)) for n in low.shape)
        patches = [low[y : y + p, x : x + p], high[y * s : (y + p) * s, x * s : (x + p) * s]]
        flips = [axis for axis in (0, 1) if rng.integers(2)]
        patches = [patch.flip(flips) for patch in patches]
        if rng.integers(2):
            patches = [patch.T for patch in patches]
        lows.append(patches[0])
        highs.append(patches[1])
    return torch.stack(lows).unsqueeze(1), torch.stack(highs).unsqueeze(1)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine from `learning_rate` to `final_learning_rate`."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    span = recipe.learning_rate - recipe.final_learning_rate
    return recipe.final_learning_rate + 0.5 * span * (1 + math.cos(math.pi * progress))


def train(
    recipe: Recipe, data: Path, checkpoint: Path, save_every: int = 2000
) -> Iterator[tuple[int, float, nn.Module]]:
    """Train; yields (step, mean loss since the last yield, EMA model) each `save_every` steps, after the checkpoint.

    A checkpoint that is already there is resumed. It is written beside and renamed, so a kill never damages it.
    """
    torch.manual_seed(recipe.seed)
    model, average = create_model(recipe.model), create_model(recipe.model)
    average.load_state_dict(model.state_dict())
    optimiser = Soap(model.parameters(), lr=recipe.learning_rate)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != str(asdict(recipe)):
            raise ValueError(f"{checkpoint} belongs to another recipe; remove it to start afresh")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    pairs = load_pairs(data, recipe)
    losses: list[float] = []
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        low, high = draw_batch(pairs, recipe, step)
        loss = F.mse_loss(model(low), high)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - recipe.ema)
        losses.append(loss.item())
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(
                {
                    "recipe": str(asdict(recipe)),
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                },
                temporary,
            )
            temporary.replace(checkpoint)
            yield step + 1, sum(losses) / len(losses), average
            losses.clear()


def main() -> None:
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
    recipe = Recipe.load(arguments.recipe)
    begin = time.perf_counter()
    model: nn.Module | None = None
    for step, loss, model in train(
        recipe, arguments.data, arguments.checkpoint or arguments.out.with_suffix(".ckpt")
    ):
        psnr = -10 * math.log10(loss)
        print(
            f"step {step}/{recipe.steps}  train PSNR {psnr:.3f} dB  {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    if model is None:
        raise SystemExit("nothing left to train: the checkpoint is complete; remove it to start afresh")
    save_file(model.state_dict(), arguments.out)


if __name__ == "__main__":
    main()
