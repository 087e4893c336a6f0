"""INT8 by explicit Q/DQ: statistics of images in bounded memory, ranges by a method, placement by data."""

from edgedeploy.calibration.base import CALIBRATORS, Calibrator, Range, TensorStatistics, make_calibrator
from edgedeploy.calibration.data import DataReport, calibration_feeds
from edgedeploy.calibration.dataset import CalibrationData
from edgedeploy.calibration.placement import PlacementReport, place, wanted
from edgedeploy.calibration.ptq import QuantizeReport, QuantizeResult, quantize
from edgedeploy.calibration.ruleset import RuleSet, load_rules, rule_names

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
