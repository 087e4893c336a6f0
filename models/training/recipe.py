"""A super-resolution training as data: all that decides the resulting weights, as in recipes/*.yaml."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedeploy.core.errors import RecipeError


class TrainingRecipe(BaseModel):
    """Fields of a recipe file.

    Attributes:
        model, scale: name in the zoo, and its factor of enlargement.
        folders: of photographs, below the data folder; each gives the same number of patches.
        steps, batch, patch: updates, patches in each, and their size in low-resolution pixels.
        learning_rate, final_learning_rate, warmup: linear rise over `warmup` steps, then a cosine.
        quantised_steps, quantised_learning_rate: updates made after that with 8-bit rounding in the network,
            so that INT8 loses little; a second cosine from this rate.
        ema: decay of the averaged weights, which are the ones that are kept.
        seed: of the first weights and of every batch.
        floor: mean squared error below which a patch counts no more; see `super_resolution.patch_loss`.
        shrink: factors by which copies of the photographs are made smaller; 1.0 is the photograph itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    scale: int = Field(ge=2)
    folders: tuple[str, ...] = Field(min_length=1)
    steps: int = Field(ge=1)
    batch: int = Field(default=16, ge=1)
    patch: int = Field(default=24, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    final_learning_rate: float = Field(default=3e-5, ge=0)
    warmup: int = Field(default=500, ge=0)
    quantised_steps: int = Field(default=0, ge=0)
    quantised_learning_rate: float = Field(default=3e-4, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    seed: int = 0
    floor: float = Field(default=3e-4, gt=0)
    shrink: tuple[float, ...] = Field(default=(1.0,), min_length=1)

    @property
    def all_steps(self) -> int:
        return self.steps + self.quantised_steps

    @staticmethod
    def load(path: Path) -> TrainingRecipe:
        """Read a YAML file; raises RecipeError, naming the field at fault."""
        try:
            return TrainingRecipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            raise RecipeError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} is not a recipe: {error}", "see models/recipes for some") from None
