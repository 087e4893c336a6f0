"""What everyone who runs or judges an artifact should be told first."""

from __future__ import annotations

from edgedeploy.core.saturation import saturation_caveats
from edgedeploy.core.spec import Artifact

RANDOM_DATA = "random data"


def caveats(artifact: Artifact) -> list[str]:
    """Lines of warning about the artifact on this machine, for people."""
    lines = saturation_caveats(artifact)
    if artifact.details.calibration.random:
        noise = f"INT8 ranges from {RANDOM_DATA}: its accuracy means nothing; quantize it with --data FOLDER"
        lines.insert(0, noise)
    return lines
