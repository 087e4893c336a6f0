"""The model zoo in PyTorch: one file per family, one builder function per model."""

from edgedeploy.models.registry import MODELS, ModelInfo, create_model, register_model

__all__ = ["MODELS", "ModelInfo", "create_model", "register_model"]
