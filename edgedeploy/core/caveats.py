"""What everyone who runs or judges an artifact should be told first."""

from __future__ import annotations

from edgedeploy.core.spec import Artifact

RANDOM_DATA = "random data"


def caveats(artifact: Artifact) -> list[str]:
    """Lines of warning that the artifact carries, for people."""
    calibration = artifact.details.get("calibration")
    if isinstance(calibration, dict) and calibration.get("random"):
        return [f"INT8 ranges from {RANDOM_DATA}: its accuracy means nothing; quantize it with --data FOLDER"]
    return []
