"""The contract of a correction: an edit of the model that reduces the error of rounding.

A correction is a frozen dataclass in a file of its own: its fields are its options. Corrections before
placement edit the float model. Corrections after placement edit codes and biases of the quantized model;
types and order of the nodes stay, so that a runtime that accepted the model still does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx

from edgedeploy.calibration.collect.collect import FeedsFactory
from edgedeploy.calibration.place.ruleset import RuleSet
from edgedeploy.core.progress import Progress
from edgedeploy.core.registry import Registry, with_options


@dataclass(frozen=True)
class Setting:
    """Inputs of a correction.

    Attributes:
        rules: rule set of Q/DQ placement.
        feeds: every call iterates over the calibration inputs from the start.
        memory_mb: bound on the tensors that one pass over the inputs keeps.
        progress: called with (feeds done, feeds in total or None).
        keep_float: nodes that stay float -> reason.
    """

    rules: RuleSet
    feeds: FeedsFactory
    memory_mb: int = 512
    progress: Progress | None = None
    keep_float: Mapping[str, str] = field(default_factory=dict)


class Correction(ABC):
    """One correction; corrections run by ascending `order`."""

    name: ClassVar[str]
    order: ClassVar[int]


class BeforePlacement(Correction):
    """Edits the float model before ranges are measured."""

    @abstractmethod
    def prepare(self, model: onnx.ModelProto, setting: Setting) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """An edited copy, and notes on the edits."""


class AfterPlacement(Correction):
    """Edits codes and biases of the quantized model."""

    @abstractmethod
    def correct(
        self, quantized: onnx.ModelProto, model: onnx.ModelProto, setting: Setting
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """An edited copy of `quantized`, which was placed from the float `model`, and notes on the edits."""


CORRECTIONS: Registry[type[Correction]] = Registry("correction", "edgedeploy.calibration.corrections")


def make_corrections(wanted: Mapping[str, Mapping[str, Any]]) -> list[Correction]:
    """The corrections with these names and options, in the order in which they run.

    Raises UnknownNameError for a name, RecipeError for an unknown option or a value out of range.
    """
    made = [with_options("correction", CORRECTIONS.get(name), options) for name, options in wanted.items()]
    return sorted(made, key=lambda correction: correction.order)
