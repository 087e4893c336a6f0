"""Which models the tests run, and how: small images, and of each family the smallest, unless told all."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from edgedeploy.models import MODELS, ModelInfo
from edgedeploy.models.zoo.bivit_swin import bivit_swin
from edgedeploy.models.zoo.slab_cswin import CSWin
from edgedeploy.models.zoo.slab_swin import linear_norm, slab_swin

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


@cache
def families() -> list[list[str]]:
    """Names of the models of each family file, the smallest first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in MODELS.names():
        info = MODELS.get(name)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in info.build(**small_options(info)).parameters())
        found.setdefault(info.build.__module__, []).append((size, name))
    return [[name for _, name in sorted(family)] for family in found.values()]


def models_under_test() -> list[str]:
    """Names of the smallest models of each family file; of all models with EDGEDEPLOY_ALL_MODELS=1.

    Variants of a family share their code: the larger ones are run before a release, see CONTRIBUTING.md.
    """
    if os.environ.get("EDGEDEPLOY_ALL_MODELS") == "1":
        return MODELS.names()
    return sorted(name for family in families() for name in family[:SMALLEST])


# Families whose smallest model takes many seconds to capture and prove: networks of the same classes, with
# fewer blocks and channels, stand for them in the fast suite.
FEWER_BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "bivit_swin_tiny": lambda: bivit_swin(32, 1, (2, 1, 1, 1), classes=10, image_size=SIDE, window=4),
    "slab_cswin_tiny": lambda: CSWin(16, 2, (1, 1, 2, 1), classes=10, image_size=SIDE),
    "slab_swin_tiny": lambda: slab_swin(
        24, 1, (2, 1, 2, 1), linear_norm, "LLSS", classes=10, image_size=SIDE
    ),
}


def one_of_each_family(names: Iterable[str]) -> list[Any]:
    """Parameters for tests that take seconds a model: all but the smallest of each family are slow.

    Of the families of `FEWER_BLOCKS` all are: a test of those networks stands for them.
    """
    fast = {family[0] for family in families() if FEWER_BLOCKS.keys().isdisjoint(family)}
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]
