"""edgedeploy: efficient vision models from PyTorch to real time on the device, proved at every step."""

import os
from typing import TYPE_CHECKING, Any

# Libraries read these when they are imported, and child processes inherit them. What the user set wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports events to its maker otherwise
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))  # an image of a few kB can claim gigabytes

__version__ = "0.1.0"
__all__ = ["__version__", "optimize"]

if TYPE_CHECKING:
    from edgedeploy.steps.optimize_file import optimize


def __getattr__(name: str) -> Any:
    """The functions of this package, imported on first use: many devices lack what they need."""
    if name == "optimize":
        from importlib import import_module

        return import_module("edgedeploy.steps.optimize_file").optimize
    raise AttributeError(f"module 'edgedeploy' has no attribute '{name}'")
