"""LayerNorm's scale and shift into its readers, and LayerNorm as RMSNorm: refusals, a network."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedeploy.export.capture.exporters import export_dynamo
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import load

FOLD, CENTER = "fold-layernorm-affine", "layernorm-to-rmsnorm"
WIDTH = 16
NORM = "n = LayerNormalization(x, g, b)"
START = "x0 = MatMul(x, w) \n "
INNER = "n = LayerNormalization(x0, g) \n "

REFUSED = [
    (FOLD, f"{NORM} \n p = MatMul(n, w) \n y = Relu(p)", "has no bias"),
    (FOLD, f"{NORM} \n p = MatMul(n, w) \n q = Add(p, b) \n y = Mul(q, p)", "has no bias"),
    (FOLD, f"{NORM} \n p = MatMul(n, w) \n q = Add(p, b) \n y = Mul(q, n)", "does not pass a shift"),
    (FOLD, f"{NORM} \n t = Transpose<perm=[0,2,1]>(n) \n y = MatMul(w, t)", "as input 1"),
    (FOLD, f"{NORM} \n p = MatMul(n, u) \n y = Add(p, b)", "has rank 3"),
    (FOLD, f"{NORM} \n p = Abs(w) \n y = MatMul(n, p)", "not constant"),
    (CENTER, "y = LayerNormalization(x, g)", "nothing centers that"),
    (CENTER, START + "t = Tanh(x0) \n y = LayerNormalization(t, g)", "is no sum"),
    (CENTER, START + INNER + "y = Mul(n, x0)", "is no sum"),
    (CENTER, START + "m = Mul(x0, g) \n y = LayerNormalization(m, g)", "is no sum"),
    (CENTER, START + "y = LayerNormalization(x0, g, b)", "run fold-layernorm-affine before"),
    (CENTER, START + "y = LayerNormalization<axis=0>(x0, w6)", "normalizes other axes"),
    (CENTER, START + "p = MatMul(x0, w) \n s = Add(x0, p) \n y = LayerNormalization(s, g)", "is no sum"),
    (CENTER, "n = LayerNormalization(x, g) \n s = Add(n, n) \n y = LayerNormalization(s, g)", "is no sum"),
    (CENTER, "v = Abs(w) \n x0 = MatMul(x, v) \n y = LayerNormalization(x0, g)", "not a constant"),
    (CENTER, "x0 = MatMul(x, w) \n y = LayerNormalization(x0, g) \n z = Relu(x0)", "is no sum"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "reason"), REFUSED)
def test_what_would_change_is_left_with_a_reason(
    name: str, body: str, reason: str, rng: np.random.Generator
) -> None:
    weights = {
        "g": floats(rng, 6) + 2,
        "b": floats(rng, 6),
        "w": floats(rng, 6, 6),
        "u": floats(rng, 1, 6, 6),
    }
    weights["w6"] = floats(rng, 6, 6)
    outputs = "y, z" if "z =" in body else "y"
    tokens = "float[1,6,6] x" if name == FOLD else "float[6,6] x"
    model = text_model(tokens, outputs, body, weights, opset=23)
    applied = PASSES.get(name).apply(load(model))
    assert applied.hits == 0
    assert any(reason in entry.reason for entry in applied.skipped), applied.skipped


def test_before_opset_23_there_is_no_such_operator(rng: np.random.Generator) -> None:
    body, weights = START + "y = LayerNormalization(x0, g)", {"w": floats(rng, 6, 6), "g": floats(rng, 6)}
    applied = PASSES.get(CENTER).apply(load(text_model("float[6,6] x", "y", body, weights)))
    assert "opset 23" in applied.skipped[0].reason


def test_a_stream_that_is_an_output_keeps_its_values(rng: np.random.Generator) -> None:
    weights = {"w": floats(rng, 6, 6), "g": floats(rng, 6)}
    model = text_model("float[6,6] x", "x0, y", START + "y = LayerNormalization(x0, g)", weights, opset=23)
    applied = PASSES.get(CENTER).apply(load(model))
    assert "read from outside" in applied.skipped[0].reason


class Block(nn.Module):
    """A pre-norm transformer block of one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Patches, positions, pre-norm blocks, a norm and a classifier."""

    def __init__(self, width: int = WIDTH, blocks: int = 2, patches: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, patches, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def test_every_norm_of_a_pre_norm_transformer_becomes_an_rmsnorm() -> None:
    torch.manual_seed(0)
    network, example = Transformer().eval(), torch.randn(1, 3, 8, 12)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias)
    model = export_dynamo(network, example, "x", ["y"], 23, False, 1)
    plain = optimize(model)
    result = optimize(plain.model, [FOLD, CENTER])
    assert not result.reverted
    before, after = (Counter(node.op_type for node in m.graph.node) for m in (plain.model, result.model))
    assert before["LayerNormalization"] == after["RMSNormalization"] == 5
    assert after["LayerNormalization"] == 0
    assert sum(after.values()) == sum(before.values())
    with torch.no_grad():
        expected = network.double()(example.double()).numpy()
    (got,) = Evaluator(result.model)({"x": example.numpy()}).values()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_both_run_on_request_only() -> None:
    assert not {FOLD, CENTER} & set(DEFAULT_PASSES)
    assert onnx.defs.get_schema("RMSNormalization").since_version == 23
