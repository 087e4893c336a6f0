"""What lowers the error of INT8 beyond good ranges: one tool a file, switched by data."""

from edgedeploy.calibration.correction import (
    CORRECTIONS,
    AfterPlacement,
    BeforePlacement,
    Correction,
    Setting,
    make_corrections,
)

__all__ = [
    "CORRECTIONS",
    "AfterPlacement",
    "BeforePlacement",
    "Correction",
    "Setting",
    "make_corrections",
]
