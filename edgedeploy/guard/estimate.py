"""What candidates would take on a device that is not here: a lower bound from its published figures.

time >= max(bytes moved / bandwidth, 2 MACs / peak). Bytes are those of the kernel list where the engine's
builder gave one (TensorRT-RTX compiles without a GPU), else of the layers. Never shown as a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgedeploy.core.spec import Artifact
from edgedeploy.guard.candidates import Candidate, run_shapes
from edgedeploy.steps.base import Job


def estimate(candidates: Sequence[Candidate], artifact: Artifact, job: Job) -> None:
    """Fill in `estimated_ms` of what cannot be opened here, where the target's figures allow."""
    absent = [c for c in candidates if c.built is not None and not c.here]
    if not absent or job.target.figures.memory_gb_per_s is None:
        return
    import onnx

    from edgedeploy.calibration.mix.costs import layer_costs, peak, roofline_ms

    figures = job.target.figures
    costs = layer_costs(onnx.load(artifact.path), run_shapes(artifact, job))
    macs = sum(cost.macs for cost in costs.values())
    for candidate in absent:
        assert candidate.built is not None  # noqa: S101  `absent` has those alone
        moved = candidate.built.details.engine.mb_moved
        rate = peak(figures, candidate.precision)
        if moved and rate:
            memory = moved * 1e6 / ((figures.memory_gb_per_s or math.inf) * 1e9)
            candidate.estimated_ms = max(memory, 2 * macs / (rate * 1e12)) * 1e3
        else:
            candidate.estimated_ms = roofline_ms(costs, figures, candidate.precision)
