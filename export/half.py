"""Float16: for computing, or for storing weights alone."""

from __future__ import annotations

from pathlib import Path

from edgedeploy.core.recipe import OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.rewrite import Policy, rewrite


def to_fp16(artifact: Artifact, options: OptimizeOptions, out: Path) -> Artifact:
    """Lower an fp32 artifact to float16 where that is safe; inputs and outputs stay as they are.

    Raises ParityError where the result is further from fp32 than the pass promises, UsageError where the
    model cannot be lowered at all.
    """
    policy = Policy.of(options, required="build in fp32")
    return rewrite(artifact, ["to-fp16"], out, policy, precision="fp16")


def store_half(artifact: Artifact, out: Path) -> Artifact:
    """Store an artifact's weights as float16; operators run in float32 as before, and so does its precision.

    Raises ParityError where the outputs change by more than the pass store-half promises, UsageError where
    the model cannot be rewritten at all.
    """
    return rewrite(artifact, ["store-half"], out, Policy(required="store fp32"))
