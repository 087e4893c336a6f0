"""Which models the tests run, and how: small images, and of each family the smallest, unless told all."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch

from edgedeploy.models import MODELS, ModelInfo

SIDE = 64
SMALLEST = 2  # of each family
# Windows that tile the grids of so small an image.
OTHERS: dict[str, dict[str, Any]] = {
    name: {"image_size": SIDE, "window": 4} for name in ("swin_tiny_prepbn", "bivit_swin_tiny")
}


def small_options(info: ModelInfo) -> dict[str, Any]:
    """Options for the builder of `info`."""
    if "image_size" not in inspect.signature(info.build).parameters:
        return {}
    return OTHERS.get(info.name, {"image_size": min(SIDE, info.input_shape[2])})


def models_under_test() -> list[str]:
    """Names of the smallest models of each family file; of all models with EDGEDEPLOY_ALL_MODELS=1.

    Variants of a family share their code: the larger ones are run before a release, see CONTRIBUTING.md.
    """
    if os.environ.get("EDGEDEPLOY_ALL_MODELS") == "1":
        return MODELS.names()
    families: dict[str, list[tuple[int, str]]] = {}
    for name in MODELS.names():
        info = MODELS.get(name)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in info.build(**small_options(info)).parameters())
        families.setdefault(info.build.__module__, []).append((size, name))
    return sorted(name for family in families.values() for _, name in sorted(family)[:SMALLEST])
