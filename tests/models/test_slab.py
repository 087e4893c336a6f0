"""SLAB against the authors' code, and every norm of it gone in deploy form."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedeploy.models import create_model
from edgedeploy.models.count import count
from edgedeploy.models.layers.linear_attention import SimplifiedLinearAttention
from edgedeploy.models.layers.norm import PRepBN, RepBN

# vector -> network; the key list has the vector's name
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "slab_repbn": lambda: RepBN(16),
    "slab_linearnorm_eval": lambda: PRepBN(16),
    "slab_sla_attention_deit": lambda: SimplifiedLinearAttention(48, 3, (14, 14)),
    "slab_sla_attention_swin": lambda: SimplifiedLinearAttention(48, 3, (8, 8)),
}
NETWORKS = [
    "slab_deit_tiny",
    "slab_deit_small",
    "deit_tiny_prepbn",
    "swin_tiny_prepbn",
    "slab_swin_tiny",
    "pvt_tiny_prepbn",
    "slab_cswin_tiny",
]
KEY_LISTS = [*NETWORKS, "deit_small_prepbn", "slab_swin_small", "slab_pvt_tiny"]


def recorded_state(shared: Path, name: str, model: nn.Module, gain: float) -> dict[str, Tensor]:
    """Values drawn from each key's own name, as facts/models.md says; counters and tables stay as built."""
    state = model.state_dict()
    for entry in json.loads((shared / "reference/keys" / f"{name}.json").read_text())["keys"]:
        key, shape, kind = entry["key"], tuple(entry["shape"]), entry["kind"]
        if kind in {"buffer_unchanged", "nbt"}:
            continue
        n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
        if kind == "conv_linear":
            n = (n / np.sqrt(np.prod(shape[1:]))).astype(np.float32) * np.float32(gain)
        elif kind == "norm_weight":
            n = 1 + 0.1 * n
        elif kind == "running_var":
            n = 1 + 0.1 * np.abs(n)
        else:
            assert kind in {"bias", "running_mean", "other_param"}, kind
            n = 0.1 * n
        state[key] = torch.from_numpy(np.asarray(n, dtype=np.float32))
    return state


def build(name: str) -> nn.Module:
    return (BLOCKS[name]() if name in BLOCKS else create_model(name)).eval()


@pytest.mark.parametrize("name", [*BLOCKS, *NETWORKS])
def test_network_equals_its_authors_code(shared: Path, name: str) -> None:
    info = json.loads((shared / "reference/parity" / f"{name}.json").read_text())
    recorded = np.load(shared / "reference/parity" / f"{name}.npz")
    model = build(name)
    model.load_state_dict(recorded_state(shared, name, model, info.get("conv_linear_gain", 1.0)), strict=True)
    x = np.random.default_rng(0).random(info["input_shape"]).astype(np.float32)
    np.testing.assert_array_equal(x.ravel()[:16], recorded["input_head"].ravel())
    with torch.no_grad():
        y = model(torch.from_numpy(x)).numpy()
    ((output, figures),) = info["outputs"].items()
    assert list(y.shape) == figures["shape"]
    error = np.abs(y - recorded[output]).max() / np.abs(recorded[output]).max()
    assert error <= 1e-4
    counts = count(model, tuple(info["input_shape"]))
    assert counts.params == info["params_total"]
    assert counts.macs == info["macs_at_input"]


@pytest.mark.parametrize("name", [*BLOCKS, *KEY_LISTS])
def test_parameter_names_and_shapes_are_the_official_ones(shared: Path, name: str) -> None:
    entries = json.loads((shared / "reference/keys" / f"{name}.json").read_text())["keys"]
    official = {e["key"]: (tuple(e["shape"]), e["dtype"]) for e in entries}
    ours = {k: (tuple(v.shape), str(v.dtype).split(".")[1]) for k, v in build(name).state_dict().items()}
    assert ours == official


def test_norms_change_over_while_training_as_the_authors_do(shared: Path) -> None:
    """Five training steps: outputs, statistics and counter of the released code."""
    recorded = np.load(shared / "reference/parity/slab_linearnorm_train5.npz")
    norm = PRepBN(16, steps=100, eps=1e-5).train()
    norm.load_state_dict(recorded_state(shared, "slab_linearnorm_eval", norm, 1.0))
    x = np.random.default_rng(0).random(tuple(recorded["input_shape"])).astype(np.float32)
    for expected in recorded["outs"]:
        with torch.no_grad():
            np.testing.assert_allclose(norm(torch.from_numpy(x)).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(norm.norm2.bn.running_mean, recorded["running_mean"], rtol=1e-5)
    np.testing.assert_allclose(norm.norm2.bn.running_var, recorded["running_var"], rtol=1e-5)
    assert norm.iter == recorded["iter"] == 95
