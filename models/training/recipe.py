"""A training as data: all that decides the resulting weights, as in recipes/*.yaml.

Where a run keeps its files, how many processes share the work and how often it reports is not part of it:
two runs of one recipe with one seed give the same weights.
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


# Ends of what something is drawn from evenly, e.g. the factors by which images are scaled.
Range = Annotated[tuple[float, float], AfterValidator(_rising)]
# A share that is not the whole.
Below1 = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe: frozen, and no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Section):
    """How a gradient becomes an update.

    Attributes:
        name: sgd with Nesterov off, adam, adamw (decay beside the gradient), or soap.
        momentum, betas: of sgd; of the others.
        weight_decay: of weights with more than one axis, and of all others too if `decay_all`.
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
    """The learning rate over the run, a share of the optimizer's.

    Attributes:
        name: constant; cosine and poly fall to `final`; step multiplies by `gamma` at each milestone.
        warmup: steps of linear rise before.
        final: where cosine and poly end, a share.
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
    """A larger model of the zoo to learn from besides the truth.

    Attributes:
        model, weights, options: as in the recipe itself.
        share: of the loss; the rest is the truth's.
        temperature: by which both logits are divided.
    """

    model: str
    weights: str
    options: dict[str, Any] = Field(default_factory=dict)
    share: float = Field(default=0.5, gt=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)


class TrainingRecipe(Section):
    """Fields of a recipe file.

    Attributes:
        experiment: what is trained for, a file of training/experiments/: data, loss, metric.
        model, options: name in the zoo, and its builder's options.
        task: options of the model's task that the weights are made for, such as `short_side`; they are
            measured so, and their files say so.
        weights: bundled name or file to start from, fresh in the heads of training that it lacks; empty for
            the builder's own initialization.
        initialize: file of another network, such as a classifier, to take the trunk from; see `load_trunk`.
        steps, batch: updates, and examples in each (over all processes).
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the averaged weights, which are what is kept; 0 keeps the last ones.
        precision: of the forward pass; bf16 and fp16 keep weights and updates in float32.
        channels_last: memory layout; the same sums in another order.
        quantized_steps, quantized_learning_rate: updates after `steps` with 8-bit rounding in the network, so
            that INT8 loses little, on a cosine of their own from that rate to `quantized_final`.
        seed: of the first weights, of every batch and of everything random in a step.
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
            raise ValueError("weights and initialize both say what to begin from: leave one out")
        return self

    @property
    def all_steps(self) -> int:
        """Updates in all, the quantized ones included."""
        return self.steps + self.quantized_steps

    @staticmethod
    def load(source: str | Path, edits: Iterable[str] = ()) -> TrainingRecipe:
        """Read a YAML file, or a recipe that comes with the package by name, and apply `a.b=value` edits.

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
        """The recipe as YAML, with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(entry.name[:-5] for entry in files(RECIPES).iterdir() if entry.name.endswith(".yaml"))


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe given by name, by the name of the one model it is for, or by path.

    Raises UnknownNameError, or RecipeError where there are several recipes for a model.
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
    """A section made from plain data; raises RecipeError, naming the field at fault."""
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
    except json.JSONDecodeError:
        here[leaf] = text
