"""Every network against vectors recorded from its authors' code: outputs, parameters, MACs and key names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedeploy.models import create_model
from edgedeploy.models.checkpoint import convert_state_dict
from edgedeploy.models.count import count
from edgedeploy.models.registry import MODELS
from edgedeploy.models.zoo.ddrnet import DAPPM
from tests.support.parity_vectors import recorded_state

# vector -> (key list, network)
VECTORS: dict[str, tuple[str, Any]] = {
    "espcn_yjn870_x2": ("espcn_yjn870_x2", lambda: create_model("espcn_x2")),
    "espcn_yjn870_x3": ("espcn_yjn870_x3", lambda: create_model("espcn_x3")),
    "espcn_lornatang_x2": ("espcn_lornatang_x2", lambda: create_model("espcn_x2", clamp=True)),
    "espcn_lornatang_x3": ("espcn_lornatang_x3", lambda: create_model("espcn_x3", clamp=True)),
    "espcn_lornatang_x4": ("espcn_lornatang_x4", lambda: create_model("espcn_x4", clamp=True)),
    "ddrnet23_slim_seg": ("ddrnet23_slim_seg_aug", lambda: create_model("ddrnet_23_slim")),
    "ddrnet23_slim_seg_aug": ("ddrnet23_slim_seg_aug", lambda: create_model("ddrnet_23_slim", augment=True)),
    "ddrnet23_seg": ("ddrnet23_seg_aug", lambda: create_model("ddrnet_23")),
    "ddrnet23_seg_aug": ("ddrnet23_seg_aug", lambda: create_model("ddrnet_23", augment=True)),
    "ddrnet23_slim_dappm_small": ("", lambda: DAPPM(64, 16, 32)),
    "ddrnet23_slim_cls": ("ddrnet23_slim_cls", lambda: create_model("ddrnet_23_slim_cls")),
    "ddrnet23_cls": ("ddrnet23_cls", lambda: create_model("ddrnet_23_cls")),
    "ddrnet39_cls": ("ddrnet39_cls", lambda: create_model("ddrnet_39_cls")),
}
KEY_LISTS = {
    **{f"espcn_yjn870_x{s}": lambda s=s: create_model(f"espcn_x{s}") for s in (2, 3, 4)},
    "ddrnet23_slim_seg_aug": lambda: create_model("ddrnet_23_slim", augment=True),
    "ddrnet23_seg_aug": lambda: create_model("ddrnet_23", augment=True),
    "ddrnet39_seg_aug": lambda: create_model("ddrnet_39", augment=True),
    "ddrnet23_slim_cls": lambda: create_model("ddrnet_23_slim_cls"),
    "ddrnet23_cls": lambda: create_model("ddrnet_23_cls"),
    "ddrnet39_cls": lambda: create_model("ddrnet_39_cls"),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_network_equals_its_authors_code(shared: Path, vector: str) -> None:
    keys, build = VECTORS[vector]
    info = json.loads((shared / "reference/parity" / f"{vector}.json").read_text())
    recorded = np.load(shared / "reference/parity" / f"{vector}.npz")
    model = build().eval()
    state = recorded_state(shared, keys, model)
    if "lornatang" in vector:
        state = convert_state_dict(MODELS.get(f"espcn_{vector[-2:]}"), state)
    if not vector.endswith("aug"):  # the recorded networks without auxiliary head have no keys for one
        state = {k: v for k, v in state.items() if not k.startswith("seghead_extra.")}
    model.load_state_dict(state, strict=True)

    x = np.random.default_rng(0).random(info["input_shape"]).astype(np.float32)
    np.testing.assert_array_equal(x.ravel()[:16], recorded["input_head"].ravel())
    with torch.no_grad():
        outputs = model(torch.from_numpy(x))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == len(info["outputs"])
    for y, (name, figures) in zip(outputs, info["outputs"].items(), strict=True):
        assert list(y.shape) == figures["shape"]
        part = y.numpy()[tuple(slice(None, None, stride) for stride in figures["strides"])]
        error = np.abs(part - recorded[name]).max()
        assert error <= 1e-4 * np.abs(recorded[name]).max(), f"{name}: {error}"

    counts = count(model, tuple(info["input_shape"]))
    assert counts.params == info["params_total"]
    assert counts.macs == info["macs_at_input"]
    for shape, macs in info["macs_other"].items():
        assert count(model, tuple(map(int, shape.split("x")))).macs == macs


@pytest.mark.parametrize("keys", KEY_LISTS)
def test_parameter_names_and_shapes_are_the_official_ones(shared: Path, keys: str) -> None:
    model = KEY_LISTS[keys]()
    official = recorded_state(shared, keys, model)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: tuple(value.shape) for name, value in official.items()}
    model.load_state_dict(official, strict=True)
