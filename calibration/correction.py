"""The contract of a correction: a model in, a model of the same form out that loses less to rounding.

A correction is one file with one frozen dataclass: its fields are its options, the file's name is its name.
Those before placement edit the float model; those after it edit codes and biases of the quantized one, never
its nodes' kinds or order, so that what was legal stays legal.
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
    """What a correction works with.

    Attributes:
        rules: where Q/DQ goes.
        feeds: gives the calibration inputs anew at every call.
        memory_mb: bound on what a pass over them keeps.
        progress: called with (feeds done, feeds in total or None).
        keep_float: nodes that shall not be quantized -> why.
    """

    rules: RuleSet
    feeds: FeedsFactory
    memory_mb: int = 512
    progress: Progress | None = None
    keep_float: Mapping[str, str] = field(default_factory=dict)


class Correction(ABC):
    """One tool; `order` says when it runs among the others, whatever order they are named in."""

    name: ClassVar[str]
    order: ClassVar[int]


class BeforePlacement(Correction):
    """Edits the float model before ranges are measured."""

    @abstractmethod
    def prepare(self, model: onnx.ModelProto, setting: Setting) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """A copy, and notes on what was done; the argument is left as it is."""


class AfterPlacement(Correction):
    """Edits codes and biases of the quantized model."""

    @abstractmethod
    def correct(
        self, quantized: onnx.ModelProto, model: onnx.ModelProto, setting: Setting
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """A copy of `quantized`, which was placed from the float `model`, and notes on what was done."""


CORRECTIONS: Registry[type[Correction]] = Registry("correction", "edgedeploy.calibration.corrections")


def make_corrections(wanted: Mapping[str, Mapping[str, Any]]) -> list[Correction]:
    """The corrections called so, with their options set, in the order in which they run.

    Raises UnknownNameError for a name, RecipeError for an unknown option or a value out of range.
    """
    made = [with_options("correction", CORRECTIONS.get(name), options) for name, options in wanted.items()]
    return sorted(made, key=lambda correction: correction.order)
