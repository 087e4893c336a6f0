"""A rule set as data: which operators run in INT8 on a kind of target, and where it wants Q/DQ pairs.

One TOML file of rules/ per set; it names its `base` where it differs from another in a few fields. H1 to H7
and P1 to P16 in the comments number hard rules and placement rules, see docs/lint.md.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from onnx import NodeProto
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgedeploy.calibration.place.weights import product_of
from edgedeploy.core.data_files import data_names, load_data
from edgedeploy.core.errors import RecipeError
from edgedeploy.core.pair_sums import Product
from edgedeploy.core.target import THIS_CPU, load_target
from edgedeploy.graphs.view import attribute

PACKAGE = "edgedeploy.calibration.rules"
Activation = Literal["int8", "uint8", "int8-asymmetric", "uint16"]
Runtime = Literal["tensorrt", "tensorrt-rtx", "dla", "openvino", "onnxruntime", "mobile"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
EVERY = "*"


class RuleSet(BaseModel):
    """One file of rules/*.toml.

    Attributes:
        title: what the set is for.
        base: rule set whose fields hold where this file does not name them.
        runtime: what reads the files, which decides the lint rules that are about its parser.
        serves: other rule sets whose runtimes take a file of this one without an error.
        opset, max_opset: least opset of a file, which an older one is raised to, and the greatest that the
            runtime's parser is made for, which a newer one is converted to (None: any).
        types: integer and float formats that QuantizeLinear and DequantizeLinear may have there.
        activation: "int8" is symmetric with zero-point 0, the others asymmetric (uint16 needs opset 21).
        weighted: operators with constant weights that run in INT8 -> output-channel axis of their weights;
            Gemm's axis is for transB = 0 and follows the attribute.
        grouped_per_tensor: operators whose weights get one scale for all channels when they are grouped.
        bias: "float" leaves biases alone, "int32" gives them scale activation x weight.
        sums: what integer kernels add products in. "int16-pairs": two neighbors in 16 bits, which saturate,
            so the codes of weights are limited (core/pair_sums.py).
        outputs: whether outputs are quantized too, besides inputs.
        around: operators without weights that get Q/DQ on inputs and outputs (only with `outputs`), where an
            input is quantized already; "*" is every operator, wherever it stands.
        same_scale: of those and of pass_through, operators whose output must have the input's scale.
        absorbed: activations that fuse into the operator before them: the tensor between stays float.
        residual_add: Q/DQ on the skip input of a residual Add.
        pass_through: operators that only move or select values, so that quantization commutes with them.
        concat: "after" quantizes what is read after a Concat, "shared" its inputs with one scale.
        symmetric_joins: of joined tokens that a MatMul reads, zero-point 0 or int8, whatever `activation` is.
        small_channels: leave out operators with too few channels to gain anything.
        first, last: quantize layers with no weighted operator before, or after, them.
        number: what takes the place of float32: "int8", or "fp8" (E4M3) where `activation` is int8.
        passes: graph passes before placement, for what the runtime's INT8 kernels compute faster.
        corrections: files of calibration/corrections that run unless told otherwise -> their options.
        signs: how products of -1, 0 and 1 run in INT8, which needs no ranges: "int8" is symmetric Q/DQ behind
            Sign; "saturating" kinds let QuantizeLinear take the sign, and unsigned ones have zero-point 1.
        known_ranges: operators whose output range is known without data, (low, high).
        least_range: width that a range has at least, for runtimes that divide by it.
        norms: normalizations before which the output of a quantized convolution is quantized too (P10).
        float_before_activation: weighted operators that stay float where an activation follows (P13).
        never: operators whose inputs are never quantized (P9).
        largest, largest_batch: most elements of a dimension, and of the first (P16); None for any.
        operators: operators that the runtime has; empty for those of no concern here (P16).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    base: str = ""
    runtime: Runtime
    serves: tuple[str, ...] = ()
    opset: int = 19
    max_opset: int | None = None
    types: frozenset[str] = Field(min_length=1)
    activation: Activation
    weighted: dict[str, int] = Field(min_length=1)
    grouped_per_tensor: frozenset[str] = frozenset()
    bias: Literal["float", "int32"] = "float"
    sums: Literal["int32", "int16-pairs"] = "int32"
    outputs: bool = False
    around: frozenset[str] = frozenset()
    same_scale: frozenset[str] = frozenset()
    absorbed: frozenset[str] = frozenset()
    residual_add: bool = True
    pass_through: frozenset[str] = frozenset()
    concat: Literal["after", "shared"] = "after"
    symmetric_joins: bool = False
    small_channels: bool = True
    first: bool = True
    last: bool = True
    number: Literal["int8", "fp8"] = "int8"
    passes: tuple[str, ...] = ()
    corrections: dict[str, dict[str, Any]] = Field(default_factory=dict)
    signs: Literal["int8", "int8-saturating", "uint8-saturating"] = "int8"
    known_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    least_range: float = Field(default=0.0, ge=0.0)
    norms: frozenset[str] = frozenset()
    float_before_activation: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    largest: int | None = None
    largest_batch: int | None = None
    operators: frozenset[str] = frozenset()

    def product(self, node: NodeProto) -> Product | None:
        """What limits the codes of a node's weight; None where the kernels add in 32 bits."""
        return product_of(node) if self.sums == "int16-pairs" else None

    def output_axis(self, node: NodeProto, rank: int) -> int | None:
        """H4: the axis of output channels of a node's weight, 0 or more; None for one scale per tensor."""
        grouped = attribute(node, "group", 1) != 1 and node.op_type in self.grouped_per_tensor
        if grouped or (node.op_type == "MatMul" and rank != 2):
            return None
        axis = self.weighted[node.op_type]
        return (1 - axis if attribute(node, "transB", 0) else axis) % rank

    def is_around(self, op: str) -> bool:
        """Whether an operator without weights gets Q/DQ on its inputs and outputs."""
        return op in self.around or EVERY in self.around

    def with_options(self, **changes: Any) -> RuleSet:
        """A copy with fields replaced; raises RecipeError for a field or value that does not fit."""
        try:
            return RuleSet.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            raise RecipeError(
                f"Q/DQ rule {'.'.join(map(str, first['loc']))}: {first['msg']}", "see calibration/rules"
            ) from None


def limited_here(rules: RuleSet) -> RuleSet:
    """The rule set as it is run on this machine: weights limited where its CPU adds products in 16 bits."""
    cpu = load_target(THIS_CPU).cpu
    return rules.with_options(sums=cpu.sums) if cpu else rules


def rule_names() -> list[str]:
    """Names of the rule sets that there are, sorted."""
    return data_names(PACKAGE)


def load_rules(name: str) -> RuleSet:
    """The rule set called `name`; raises UnknownNameError with the closest names."""
    return load_data("Q/DQ rule set", PACKAGE, name, RuleSet, inherit="base")
