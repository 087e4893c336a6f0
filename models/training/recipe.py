"""A training as data: everything that decides the resulting weights, as in recipes/*.yaml.

Output folder, number of processes and frequency of reports are not part of it: two runs of one recipe with
one seed give the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.core.renamed import TRAINING_RECIPE, with_current_keys

S = TypeVar("S", bound="Section")
RECIPES = "edgedeploy.models.recipes"


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= pair[0] <= pair[1]:
        raise ValueError("the lower end comes first, and is not negative")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_rising)]  # of a uniform distribution
Below1 = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, without undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Section):
    """How a gradient becomes an update.

    Attributes:
        name: sgd without Nesterov momentum, adam, adamw (decoupled decay), or soap.
        momentum: of sgd.
        betas: of the others.
        weight_decay: of parameters with more than one axis; with `decay_all`, of all.
    """

    name: Literal["sgd", "adam", "adamw", "soap"]
    learning_rate: float = Field(gt=0)
    momentum: Below1 = 0.9
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_all: bool = False

    @model_validator(mode="after")
    def _check(self) -> Optimizer:
        if self.name == "soap" and (self.weight_decay or self.decay_all or self.betas != (0.9, 0.999)):
            raise ValueError("soap has its own betas and no weight decay: leave them out")
        return self


class Schedule(Section):
    """The learning rate over the run, relative to the optimizer's.

    Attributes:
        name: constant; cosine and poly decay to `final`; step multiplies by `gamma` at each milestone.
        warmup: steps of linear warm-up.
        final: last value of cosine and poly, relative.
        power: of poly, (1 - t) ** power.
        milestones: of step, as shares of the run in (0, 1).
    """

    name: Literal["constant", "cosine", "poly", "step"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    final: float = Field(default=0.0, ge=0, le=1)
    power: float = Field(default=0.9, gt=0)
    milestones: tuple[float, ...] = ()
    gamma: float = Field(default=0.1, gt=0)


class Teacher(Section):
    """A larger model of the zoo to distill.

    Attributes:
        model, weights, options: as in the recipe itself.
        share: weight of the distillation loss; the loss of the labels has the rest.
        temperature: divisor of both logits.
    """

    model: str
    weights: str
    options: dict[str, Any] = Field(default_factory=dict)
    share: float = Field(default=0.5, gt=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)


class TrainingRecipe(Section):
    """Fields of a recipe file.

    Attributes:
        experiment: name of a file of training/experiments/: data, loss, metric.
        model, options: name in the zoo, and its builder's options.
        task: options of the model's task for these weights, such as `short_side`. Evaluation uses them, and
            the weights file holds them.
        weights: bundled name or file to start from; heads of training that it lacks start fresh. Empty for
            random weights.
        initialize: file of another network, such as a classifier, with the initial trunk; see `load_trunk`.
        steps, batch: updates, and examples in each (over all processes).
        clip: largest norm of the gradient; 0 for no limit.
        ema: decay of the averaged weights, which are the result; 0 for the last weights.
        precision: of the forward pass; bf16 and fp16 keep weights and updates in float32.
        channels_last: memory layout; changes the order of sums.
        quantized_steps: updates after `steps` with 8-bit rounding in the network, for little loss in INT8.
        quantized_learning_rate, quantized_final: first and last rate of their cosine schedule.
        seed: of the initial weights, of every batch and of all random numbers in a step.
        settings: of the experiment.
    """

    experiment: str
    model: str
    options: dict[str, Any] = Field(default_factory=dict)
    task: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    initialize: str = ""
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    clip: float = Field(default=0.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    channels_last: bool = False
    quantized_steps: int = Field(default=0, ge=0)
    quantized_learning_rate: float = Field(default=3e-4, gt=0)
    quantized_final: float = Field(default=3e-5, ge=0)
    seed: int = Field(default=0, ge=0)
    teacher: Teacher | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> TrainingRecipe:
        if self.weights and self.initialize:
            raise ValueError("weights and initialize exclude each other: leave one out")
        return self

    @property
    def all_steps(self) -> int:
        """All updates, including the quantized ones."""
        return self.steps + self.quantized_steps

    @staticmethod
    def load(source: str | Path, edits: Iterable[str] = ()) -> TrainingRecipe:
        """Read a YAML file or a bundled recipe by name, and apply `a.b=value` edits.

        Raises RecipeError, naming the field at fault, or UnknownNameError.
        """
        path = find_recipe(source)
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} is not a recipe: {error}", "see models/recipes for some") from None
        if not isinstance(document, dict):
            raise RecipeError(f"{path} is not a recipe: it holds no fields", "see models/recipes for some")
        document = with_current_keys(document, TRAINING_RECIPE, str(path))
        for edit in edits:
            _apply(document, edit)
        return validated(TrainingRecipe, document, str(path))

    def dump(self) -> str:
        """The recipe as YAML, with all defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def bundled_recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(entry.name[:-5] for entry in files(RECIPES).iterdir() if entry.name.endswith(".yaml"))


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe by name, by the name of its model, or by path.

    Raises UnknownNameError, or RecipeError for a model with several recipes.
    """
    known = bundled_recipes()
    named = [name for name in known if name == str(source)]
    named = named or [name for name in known if name.partition("-")[0] == str(source)]
    if len(named) > 1:
        raise RecipeError(f"{source} has {len(named)} recipes", f"name one: {', '.join(named)}")
    if named:
        return Path(str(files(RECIPES).joinpath(f"{named[0]}.yaml")))
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        raise UnknownNameError("recipe", str(source), bundled_recipes())
    if not path.is_file():
        raise RecipeError(f"{path} does not exist", f"recipes by name: {', '.join(bundled_recipes())}")
    return path


def validated(kind: type[S], document: Any, where: str) -> S:
    """A section of plain data; raises RecipeError, naming the field at fault."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ": ".join(filter(None, (where, ".".join(map(str, first["loc"])))))
        known = ", ".join(kind.model_fields)
        hint = f"its fields are {known}" if first["type"] == "extra_forbidden" else ""
        raise RecipeError(f"{place}: {first['msg'].removeprefix('Value error, ')}", hint) from None


def _apply(document: dict[str, Any], edit: str) -> None:
    key, equals, text = edit.partition("=")
    if not equals:
        raise RecipeError(f"'{edit}' is not an edit", "write it as a.b=value, e.g. optimizer.name=adamw")
    first, dot, rest = key.strip().partition(".")
    (first,) = with_current_keys({first: None}, TRAINING_RECIPE, "--set")
    *parents, leaf = f"{first}{dot}{rest}".split(".")
    here = document
    for parent in parents:
        here = here.setdefault(parent, {})
        if not isinstance(here, dict):
            raise RecipeError(f"'{key}': {parent} has no fields", "see the recipe's file for what there is")
    try:
        here[leaf] = json.loads(text)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        here[leaf] = text
