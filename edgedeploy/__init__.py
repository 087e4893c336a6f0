"""edgedeploy: efficient vision models from PyTorch to real time on the device, proved at every step."""

from typing import TYPE_CHECKING, Any

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
