"""How tests build models whose image size is fixed: small, so that all of the zoo is tested in seconds."""

from __future__ import annotations

import inspect
from typing import Any

from edgedeploy.models import ModelInfo

SIDE = 64
# Windows that tile the grids of so small an image.
OTHERS: dict[str, dict[str, Any]] = {
    name: {"image_size": SIDE, "window": 4} for name in ("swin_tiny_prepbn", "bivit_swin_tiny")
}


def small_options(info: ModelInfo) -> dict[str, Any]:
    """Options for the builder of `info`."""
    if "image_size" not in inspect.signature(info.build).parameters:
        return {}
    return OTHERS.get(info.name, {"image_size": min(SIDE, info.input_shape[2])})
