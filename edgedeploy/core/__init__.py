"""What everything else stands on: errors, registries, artifacts, targets, recipes, parity.

No torch, onnx or SDK here: devices that only run models import this too.
"""
