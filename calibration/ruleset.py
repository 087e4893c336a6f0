"""A rule set as data: which operators run in INT8 on a kind of target, and where it wants Q/DQ pairs.

One TOML file of rules/ per set; the letters H and P in its comments number TensorRT's hard rules and its
placement rules.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedeploy.core.data_files import data_names, load_data
from edgedeploy.core.errors import RecipeError

PACKAGE = "edgedeploy.calibration.rules"


class RuleSet(BaseModel):
    """One file of rules/*.toml.

    Attributes:
        title: what the set is for.
        activation: "int8" is symmetric with zero-point 0, "uint8" asymmetric.
        weighted: operators with constant weights that run in INT8 -> output-channel axis of their weights;
            Gemm's axis is for transB = 0 and follows the attribute.
        grouped_per_tensor: operators whose weights get one scale for all channels when they are grouped.
        bias: "float" leaves biases alone, "int32" gives them scale activation x weight.
        outputs: whether outputs are quantised too, besides inputs.
        around: operators without weights that get Q/DQ on inputs and outputs (only with `outputs`).
        same_scale: of those and of pass_through, operators whose output must have the input's scale.
        absorbed: activations that fuse into the operator before them: the tensor between stays float.
        residual_add: Q/DQ on the skip input of a residual Add.
        pass_through: operators that only move or select values, so that quantisation commutes with them.
        concat: "after" quantises what is read after a Concat, "shared" its inputs with one scale.
        small_channels: leave out operators with too few channels to gain anything.
        first, last: quantise layers with no weighted operator before, or after, them.
        number: what takes the place of float32: "int8", or "fp8" (E4M3) where `activation` is int8.
        corrections: files of calibration/corrections that run unless told otherwise -> their options.
        signs: how products of -1, 0 and 1 run in INT8, which needs no ranges: "int8" is symmetric Q/DQ behind
            Sign; "saturating" kinds let QuantizeLinear take the sign, and unsigned ones have zero-point 1.
        known_ranges: operators whose output range is known without data, (low, high).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    activation: Literal["int8", "uint8"]
    weighted: dict[str, int] = Field(min_length=1)
    grouped_per_tensor: frozenset[str] = frozenset()
    bias: Literal["float", "int32"] = "float"
    outputs: bool = False
    around: frozenset[str] = frozenset()
    same_scale: frozenset[str] = frozenset()
    absorbed: frozenset[str] = frozenset()
    residual_add: bool = True
    pass_through: frozenset[str] = frozenset()
    concat: Literal["after", "shared"] = "after"
    small_channels: bool = True
    first: bool = True
    last: bool = True
    number: Literal["int8", "fp8"] = "int8"
    corrections: dict[str, dict[str, Any]] = Field(default_factory=dict)
    signs: Literal["int8", "int8-saturating", "uint8-saturating"] = "int8"
    known_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)

    def with_options(self, **changes: Any) -> RuleSet:
        """A copy with fields replaced; raises RecipeError for a field or value that does not fit."""
        try:
            return RuleSet.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            raise RecipeError(
                f"Q/DQ rule {'.'.join(map(str, first['loc']))}: {first['msg']}", "see calibration/rules"
            ) from None


def rule_names() -> list[str]:
    """Names of the rule sets that there are, sorted."""
    return data_names(PACKAGE)


def load_rules(name: str) -> RuleSet:
    """The rule set called `name`; raises UnknownNameError with the closest names."""
    return load_data("Q/DQ rule set", PACKAGE, name, RuleSet)
