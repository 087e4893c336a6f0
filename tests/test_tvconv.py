"""TVConv and its networks: against the authors' code, in deploy form, through ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.export.capture import capture
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.count import count
from edgedeploy.models.layers_tvconv import ConstantTVConv, TVConv, TVConvBatchNorm
from edgedeploy.models.reparam import reparameterize
from tests.parity_vectors import assert_vector, load_recorded, recorded_keys

WIDTHS = ("0_1", "0_2", "0_5", "1_0")
LAYERS: dict[str, Any] = {
    "tvconv_block_s1": lambda: TVConv(6, 12, 10),
    "tvconv_block_s2": lambda: TVConv(6, 12, 10, stride=2),
    "tvconv_block_k5": lambda: TVConv(4, 8, 8, kernel=5),
    "tvconv_block_bias": lambda: TVConv(6, 8, 8, inner=64, layers=3, bias=True),
}
NETWORKS = {
    **{f"tvconv_face_mobilenetv2_x{w}_TVConv": f"tvconv_face_x{w}" for w in WIDTHS},
    **{f"tvconv_face_mobilenetv2_x{w}_base": f"tvconv_face_x{w}_base" for w in WIDTHS},
    "tvconv_odoc_deeplabv3plus_TVConv": "tvconv_disc_cup",
    "tvconv_odoc_deeplabv3plus_DW": "tvconv_disc_cup_dw",
    "tvconv_odoc_deeplabv3plus_base": "tvconv_disc_cup_base",
}


def build(vector: str) -> nn.Module:
    return LAYERS[vector]() if vector in LAYERS else create_model(NETWORKS[vector])


@pytest.mark.parametrize("vector", [*LAYERS, *NETWORKS])
def test_names_and_shapes_are_the_official_ones(shared: Path, vector: str) -> None:
    ours = {name: tuple(value.shape) for name, value in build(vector).state_dict().items()}
    assert ours == {key: tuple(shape) for key, (shape, _) in recorded_keys(shared, vector).items()}


@pytest.mark.parametrize("vector", [*LAYERS, *NETWORKS])
def test_network_equals_its_authors_code(shared: Path, vector: str) -> None:
    if not (shared / "reference/parity" / f"{vector}.json").is_file():
        pytest.skip("a key list without a recorded vector")
    assert_vector(shared, vector, build(vector))
