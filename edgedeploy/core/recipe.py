"""A deployment's parameters: validated once, frozen, changed only by `a.b=value` edits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.core.renamed import RECIPE_SECTIONS, with_current_keys
from edgedeploy.core.spec import Precision


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CaptureOptions(_Options):
    """From PyTorch to ONNX. Sizes are in pixels; None takes the model's own default."""

    exporter: Literal["auto", "dynamo", "torchscript"] = "auto"
    opset: int = Field(default=20, ge=19, le=23)
    height: int | None = Field(default=None, ge=1, le=16384)
    width: int | None = Field(default=None, ge=1, le=16384)
    dynamic: bool = False
    seeds: int = Field(default=3, ge=1, le=100)


class OptimizeOptions(_Options):
    """Graph passes of the ONNX file.

    Attributes:
        passes: names of the passes to run, in this order; None runs all that keep inputs and outputs.
        skip: names of passes to leave out.
        verify: whether each pass is proved, on `seeds` random draws and on `real_inputs` of the job's data.
        simplify: a simplifier that runs before the passes: "onnxslim", "onnxsim" or "onnxoptimizer".
        pad_channels: channels between convolutions are padded to a multiple of this.
        preprocess, uint8_input: whether the graph takes pixels, as float32 NCHW or as uint8 NHWC.
        uint8_output, argmax: whether the graph returns uint8 pixels, or class indices.
    """

    passes: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    verify: bool = True
    seeds: int = Field(default=2, ge=1, le=100)
    real_inputs: int = Field(default=0, ge=0)
    simplify: str | None = None
    pad_channels: int | None = Field(default=None, ge=2)
    preprocess: bool = False
    uint8_input: bool = False
    uint8_output: bool = False
    argmax: bool = False


class CalibrationOptions(_Options):
    """INT8 ranges. `method` names a file of calibration/, `options` are that method's own.

    At most `limit` inputs are used; `random` is how many of noise are, where there is no data. `memory_mb`
    bounds what collecting takes on top of the program itself.
    `corrections` names files of calibration/corrections, or gives their options by name; None takes those of
    the target's rule set. `keep_float` names nodes that stay in float, as `sensitivity` shows them.
    """

    method: str = "entropy"
    options: dict[str, Any] = Field(default_factory=dict)
    corrections: tuple[str, ...] | dict[str, dict[str, Any]] | None = None
    limit: int = Field(default=64, ge=1)
    random: int = Field(default=0, ge=0, le=4096)
    keep_float: tuple[str, ...] = ()
    memory_mb: int = Field(default=512, ge=16)


class TaskOptions(_Options):
    """What the tensors of a model made elsewhere mean: a file of tasks/ and that task's own options."""

    name: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class GuardOptions(_Options):
    """How `precision=auto` chooses.

    Attributes:
        budget: conditions on accuracy, "miou>=-0.3", and on time, "p50<20ms"; the task's own if none.
        scored: most inputs to score candidates on.
        mixed: whether layers may be kept in float where that rescues INT8, tried in so many `rounds`.
        seconds: how long each candidate is timed.
    """

    budget: tuple[str, ...] = ()
    scored: int = Field(default=32, ge=1)
    mixed: bool = True
    rounds: int = Field(default=4, ge=1, le=16)
    seconds: float = Field(default=1.5, gt=0, le=60)


class Recipe(_Options):
    """Everything that decides what a deployment yields; `precision` "auto" lets the guard choose."""

    precision: Precision | Literal["auto"] | None = None
    task: TaskOptions = TaskOptions()
    capture: CaptureOptions = CaptureOptions()
    optimize: OptimizeOptions = OptimizeOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    guard: GuardOptions = GuardOptions()

    def edited(self, edits: Iterable[str]) -> Recipe:
        """A copy with `a.b=value` edits applied, see `parsed` and `changed`."""
        return self.changed(parsed(edits))

    def changed(self, fields: Mapping[str, Any]) -> Recipe:
        """A copy with other values for fields, named by their path: {"capture.height": 384}.

        Raises RecipeError, naming the field and what it takes, or UnknownNameError with a close match.
        """
        document = self.model_dump()
        for key, value in fields.items():
            *parents, leaf = _current(key).split(".")
            here = document
            for parent in parents:
                here = _descend(here, parent, key)
            if leaf not in here and "options" not in parents:
                raise UnknownNameError("recipe field", key, _paths(document))
            here[leaf] = value
        try:
            return Recipe.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            hint = f"its default is {_default(name)}"
            if first["type"] == "tuple_type":
                hint = f"write a list, e.g. {name}='{json.dumps([first['input']])}'"
            raise RecipeError(f"{name}: {first['msg']}", hint) from None


def parsed(edits: Iterable[str]) -> dict[str, Any]:
    """`a.b=value` texts as field path -> value; a value is JSON where it parses as JSON, else text.

    Raises RecipeError for a text without "=".
    """
    fields: dict[str, Any] = {}
    for edit in edits:
        key, equals, text = edit.partition("=")
        if not equals:
            raise RecipeError(
                f"'{edit}' is not an edit", "write it as a.b=value, e.g. calibration.method=minmax"
            )
        try:
            fields[key.strip()] = json.loads(text)
        except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
            fields[key.strip()] = text
    return fields


def _current(key: str) -> str:
    """The field's path under today's section name."""
    section, dot, rest = key.partition(".")
    (current,) = with_current_keys({section: rest}, RECIPE_SECTIONS, where="recipe")
    return f"{current}{dot}{rest}"


def _default(name: str) -> Any:
    value: Any = Recipe().model_dump()
    for part in name.split("."):
        value = value.get(part, "unset") if isinstance(value, dict) else value
    return value


def _descend(document: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    child = document.get(name)
    if not isinstance(child, dict):
        raise UnknownNameError("recipe field", key, _paths(document))
    return child


def _paths(document: dict[str, Any], prefix: str = "") -> list[str]:
    result = []
    for name, value in document.items():
        result += (
            _paths(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]
        )
    return result
