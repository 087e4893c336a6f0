"""INT8 by explicit Q/DQ: statistics of images in bounded memory, ranges by a method, placement by data."""

from edgedeploy.calibration.calibrator import (
    CALIBRATORS,
    Calibrator,
    Range,
    TensorStatistics,
    make_calibrator,
)
from edgedeploy.calibration.collect.data import DataReport, calibration_feeds
from edgedeploy.calibration.collect.dataset import CalibrationData
from edgedeploy.calibration.place.placement import PlacementReport, place, wanted
from edgedeploy.calibration.place.ruleset import RuleSet, load_rules, rule_names
from edgedeploy.calibration.ptq import QuantizeReport, QuantizeResult, quantize

__all__ = [
    "CALIBRATORS",
    "CalibrationData",
    "Calibrator",
    "DataReport",
    "PlacementReport",
    "QuantizeReport",
    "QuantizeResult",
    "Range",
    "RuleSet",
    "TensorStatistics",
    "calibration_feeds",
    "load_rules",
    "make_calibrator",
    "place",
    "quantize",
    "rule_names",
    "wanted",
]
