"""Recorded vectors of the authors' own code: seeded parameters, inputs, outputs, counts."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedeploy.models.count import count


def seeded(key: str, shape: list[int], kind: str, gain: float = 1.0) -> Tensor:
    """The value of one parameter in the recorded vectors: drawn from its own name."""
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if kind == "conv_linear":
        n /= np.sqrt(np.prod(shape[1:]))
    elif kind == "norm_weight":
        n = 1 + 0.1 * n
    elif kind == "running_var":
        n = 1 + 0.1 * np.abs(n)
    elif kind == "nbt":
        return torch.zeros(shape, dtype=torch.int64)
    else:
        assert kind in {"bias", "running_mean", "other_param"}, kind
        n = 0.1 * n
    value = torch.from_numpy(np.asarray(n, dtype=np.float32))
    return value * gain if kind == "conv_linear" else value


def recorded_keys(shared: Path, name: str) -> dict[str, tuple[list[int], str]]:
    """Official names with shape and kind."""
    entries = json.loads((shared / "reference/keys" / f"{name}.json").read_text())["keys"]
    return {e["key"]: (e["shape"], e["kind"]) for e in entries}


def load_recorded(shared: Path, name: str, model: nn.Module, gain: float = 1.0) -> None:
    """Fill `model` with the recorded parameters, all of them and no others."""
    own = model.state_dict()
    keys = recorded_keys(shared, name)
    state = {
        key: own[key] if kind == "buffer_unchanged" else seeded(key, shape, kind, gain)
        for key, (shape, kind) in keys.items()
    }
    model.load_state_dict(state, strict=True)


def recorded_input(shape: list[int]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(shape).astype(np.float32))


def assert_vector(
    shared: Path, name: str, model: nn.Module, *, tolerance: float = 1e-4, signed: bool = False
) -> None:
    """Outputs, parameter and MAC counts of `model` with the recorded weights against the recorded figures."""
    info: dict[str, Any] = json.loads((shared / "reference/parity" / f"{name}.json").read_text())
    recorded = np.load(shared / "reference/parity" / f"{name}.npz")
    load_recorded(shared, name, model.eval(), info.get("conv_linear_gain", 1.0))
    x = recorded_input(info["input_shape"])
    x = 2 * x - 1 if signed else x
    np.testing.assert_array_equal(x.numpy().ravel()[:16], recorded["input_head"].ravel())
    with torch.no_grad():
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for y, (output, figures) in zip(outputs, info["outputs"].items(), strict=True):
        assert list(y.shape) == figures["shape"]
        part = y.numpy()[tuple(slice(None, None, stride) for stride in figures["strides"])]
        error = np.abs(part - recorded[output]).max()
        assert error <= tolerance * np.abs(recorded[output]).max(), f"{output}: {error}"
    counts = count(model, tuple(info["input_shape"]))
    assert counts.params == info["params_total"]
    assert counts.macs == info["macs_at_input"]


def kind_of(name: str, value: Tensor) -> str:
    """For the one vector that has no key list."""
    leaf = name.rsplit(".", 1)[-1]
    known = {"num_batches_tracked": "nbt", "running_mean": "running_mean", "running_var": "running_var"}
    return known.get(leaf) or (leaf if leaf == "bias" else "conv_linear" if value.ndim > 1 else "norm_weight")


def recorded_state(shared: Path, keys: str, model: nn.Module) -> dict[str, Tensor]:
    if not keys:
        return {k: seeded(k, list(v.shape), kind_of(k, v)) for k, v in model.state_dict().items()}
    entries = json.loads((shared / "reference/keys" / f"{keys}.json").read_text())["keys"]
    assert all(e["kind"] != "other_param" for e in entries)  # these families have none
    return {e["key"]: seeded(e["key"], e["shape"], e["kind"]) for e in entries}
