"""A device as data: which backend runs on it, in which precisions, by which Q/DQ rules, and how fast it could
be.
"""

from __future__ import annotations

import sys
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedeploy.core.errors import RecipeError, UnknownNameError
from edgedeploy.core.spec import Precision

if sys.version_info >= (3, 11):
    import tomllib
else:  # JetPack 6 ships Python 3.10
    import tomli as tomllib

PACKAGE = "edgedeploy.targets"


class Figures(BaseModel):
    """Peak rates of a device, dense, for the roofline; None where nobody publishes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    fp32_tflops: float | None = None
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    memory_gb_per_s: float | None = None
    memory_gb: float | None = None


class Target(BaseModel):
    """One file of targets/*.toml.

    Attributes:
        name: the file's name without suffix, e.g. "rtx-4090".
        title: how people call the device.
        backends: candidates, best guess first; `build` takes the fastest that is installed and passes parity.
        precisions: what the device runs, and `default_precision` what `build` makes unless told.
        qdq: name of the Q/DQ rule set in calibration/rules for int8.
        compute_capability: CUDA SM such as "8.9", for engines that are built for one.
        precision_note: why the default precision is the default, printed by `build`.
        figures: see Figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    backends: tuple[str, ...] = Field(min_length=1)
    precisions: tuple[Precision, ...] = Field(min_length=1)
    default_precision: Precision
    qdq: str = "tensorrt"
    compute_capability: str | None = Field(default=None, pattern=r"^\d{1,2}\.\d$")
    precision_note: str = ""
    figures: Figures = Figures()

    @model_validator(mode="after")
    def _default_is_offered(self) -> Target:
        if self.default_precision not in self.precisions:
            raise ValueError(f"default_precision {self.default_precision} is not among precisions")
        return self


def target_names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".toml")
    )


def load_target(name: str) -> Target:
    """The target called `name`; raises UnknownNameError with the closest names."""
    if name not in target_names():
        raise UnknownNameError("target", name, target_names())
    text = files(PACKAGE).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Target(name=name, **tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"targets/{name}.toml is not valid: {error}") from error
