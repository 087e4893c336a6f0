"""The form of a binary network in which its matrix products run as INT8, exact and without calibration.

Weights leave their bits for int8, and products of signs get Q/DQ with scale 1: sums of at most 2^31 signs are
exact in int32, so that nothing but the speed changes. The file grows; the one that travels keeps its bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.details import Details, SignDetails
from edgedeploy.core.onnx_header import operators
from edgedeploy.core.recipe import SurgeryOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.passes.quantize_signs import SignOptions
from edgedeploy.export.runner import optimize
from edgedeploy.graphs.metadata import save_model

PRODUCTS = "quantize-signs"
PASSES = ("drop-before-sign", "expand-binary-weights", PRODUCTS, "hoist-quantize")
SATURATE = "saturate-sign"


def lower_signs(artifact: Artifact, form: str, options: SurgeryOptions, out: Path) -> Artifact | None:
    """Write the INT8 form of a network with products of signs to `out`; None for a network without such.

    Args:
        artifact: an ONNX artifact of any precision.
        form: field `signs` of a Q/DQ rule set: "int8", "int8-saturating" or "uint8-saturating".
        options: which passes to skip, and how to prove the others.

    The precision stays: it is that of what stands between the products. `details.signs` says how many
    products run in INT8, and in which form.
    """
    if not {"Sign", "MatMul"} <= {kind for kind, _ in operators(artifact.path)}:
        return None
    kind, _, saturating = form.partition("-")
    passes = [name for name in (*PASSES, *((SATURATE,) if saturating else ())) if name not in options.skip]
    chosen: dict[str, Any] = {PRODUCTS: SignOptions(unsigned=kind == "uint8")}
    result = optimize(
        onnx.load(artifact.path), passes, verify=options.verify, seeds=options.seeds, options=chosen
    )
    hits = sum(step.hits for step in result.steps if step.name == PRODUCTS and not step.reverted)
    if not hits:
        return None
    lowered = artifact.model_copy(
        update={
            "history": (*artifact.history, *result.history()),
            "details": artifact.details | Details(signs=SignDetails(form=form, products=hits)),
        }
    )
    return save_model(result.model, lowered, out)
