"""The model zoo in PyTorch: one file per family, one builder function per model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedeploy.models.registry import MODELS, ModelInfo, create_model, register_model

__all__ = ["MODELS", "ModelInfo", "create_model", "register_model"]


def __getattr__(name: str) -> Any:
    """Import the registry, and torch with it, when one of its names is read: `catalog` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("edgedeploy.models.registry"), name)
