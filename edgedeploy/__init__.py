"""edgedeploy: efficient vision models from PyTorch to real time on the device, proved at every step."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Libraries read these when they are imported, and child processes inherit them. What the user set wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reports events to its maker otherwise
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**27))  # an image of a few kB can claim gigabytes

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "bench",
    "build",
    "evaluate",
    "export",
    "lint",
    "load",
    "optimize",
    "quantize",
]

if TYPE_CHECKING:
    from edgedeploy.api import bench, build, evaluate, export, lint, load, optimize, quantize


def __getattr__(name: str) -> Any:
    """The functions of the API, imported on first use: help and devices do without what they need."""
    if name in __all__:
        return getattr(import_module("edgedeploy.api"), name)
    raise AttributeError(f"module 'edgedeploy' has no attribute '{name}'")
