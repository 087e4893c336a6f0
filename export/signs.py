"""Binary networks with matrix products in INT8, exact and without calibration.

Packed bits become int8 weights, and products of signs get Q/DQ with scale 1. Sums of at most 2^31 signs are
exact in int32, so only the speed changes. The file grows; the file that is delivered keeps its packed bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedeploy.core.details import Details, SignDetails
from edgedeploy.core.onnx_header import operators
from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.passes.quantize_signs import SignOptions
from edgedeploy.export.rewrite import Policy, run_passes, write

PRODUCTS = "quantize-signs"
PASSES = ("drop-before-sign", "expand-binary-weights", PRODUCTS, "hoist-quantize")
SATURATE = "saturate-sign"


def quantize_signs(artifact: Artifact, form: str, options: OptimizeOptions, out: Path) -> Artifact | None:
    """Write the INT8 form of a network with products of signs to `out`; None for other networks.

    Args:
        artifact: an ONNX artifact of any precision.
        form: field `signs` of a Q/DQ rule set: "int8", "int8-saturating" or "uint8-saturating".
        options: which passes to skip, and how to prove the others.

    The artifact keeps its precision, that of the nodes between products. `details.signs` has the number of
    INT8 products and their form.
    """
    if not {"Sign", "MatMul"} <= {kind for kind, _ in operators(artifact.path)}:
        return None
    kind, _, saturating = form.partition("-")
    passes = [name for name in (*PASSES, *((SATURATE,) if saturating else ())) if name not in options.skip]
    chosen: dict[str, Any] = {PRODUCTS: SignOptions(unsigned=kind == "uint8")}
    result = run_passes(artifact, [passes], Policy.of(options), options=chosen)
    hits = sum(step.hits for step in result.steps if step.name == PRODUCTS and not step.reverted)
    if not hits:
        return None
    details = artifact.details | Details(signs=SignDetails(form=form, products=hits))
    return write(artifact, result, out, details=details)
