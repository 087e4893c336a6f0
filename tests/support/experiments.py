"""A tiny training of every experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedeploy.models.training.recipe import TrainingRecipe
from tests.support import training_runs as runs


@dataclass(frozen=True)
class Case:
    """A tiny training: how its data is drawn, its recipe, and how far the loss falls in how many steps.

    `loss` is the one that falls, of those in the log; `best` is more than the metric can be.
    """

    draw: Callable[[Path], Path]
    recipe: Callable[..., TrainingRecipe]
    steps: int
    falls: float
    rate: float = 3e-3
    loss: str = "loss"
    best: float = 1.0


def upscaling(settings: Mapping[str, Any] | None = None, **changes: Any) -> TrainingRecipe:
    """ESPCN, measured on one of the folders that it is trained on."""
    return runs.upscaling({"validation": "a", **(settings or {})}, **changes)


CASES = {
    "super-resolution": Case(
        runs.draw_photographs, upscaling, 60, 0.5, loss="error", best=60.0
    ),  # its loss is a logarithm, and PSNR in dB
    "segmentation": Case(runs.draw_streets, runs.streets, 20, 0.8),
    "classification": Case(runs.draw_classes, runs.colors, 40, 0.8),
    "classification archives": Case(runs.draw_archives, runs.colors, 40, 0.8),
    "classification binary": Case(runs.draw_classes, runs.bits, 30, 0.9),
    "face-embedding": Case(runs.draw_faces, runs.faces, 25, 0.6),
    "disc-cup": Case(runs.draw_fundus, runs.fundus, 12, 0.7),
    "text-detection": Case(runs.draw_signs, runs.signs, 40, 0.9, 1e-2),
}


def drawn(name: str, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return CASES[name].draw(tmp_path / "data")
