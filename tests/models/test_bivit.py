"""BiViT's binary layers: against the authors' code, values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.core.spec import TaskSpec
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.runner import optimize
from edgedeploy.models import ModelInfo
from edgedeploy.models.layers.bivit import (
    BinaryAttention,
    BinaryLinear,
    BinaryMlp,
    PackedLinear,
    SignLinear,
    binary_sign,
    binary_step,
    softmax_aware,
)
from edgedeploy.models.reparam import reparameterize
from tests.support.parity_vectors import assert_vector, load_recorded, recorded_input, recorded_keys

HEADS = 3
LAYERS: dict[str, Any] = {
    "bivit_linear_ste": lambda: BinaryLinear(32, 48),
    "bivit_linear_ste_32a": lambda: BinaryLinear(32, 48, binary_inputs=False),
    "bivit_linear_adapscaling": lambda: BinaryLinear(32, 48, scales="learned"),
    "bivit_linear_adapscaling_1w32a": lambda: BinaryLinear(32, 48, scales="learned", binary_inputs=False),
    "bivit_mlp": lambda: BinaryMlp(48, 192),
    "bivit_mlp_1w32a": lambda: BinaryMlp(48, 192, binary_inputs=False),
    "bivit_mlp_adapscaling_1w32a": lambda: BinaryMlp(48, 192, scales="learned", binary_inputs=False),
    "bivit_attention_baseline": lambda: BinaryAttention(48, HEADS, softmax=False),
    "bivit_attention_sab": lambda: BinaryAttention(48, HEADS),
}


@pytest.mark.parametrize("vector", LAYERS)
def test_names_and_shapes_are_the_official_ones(shared: Path, vector: str) -> None:
    ours = {name: tuple(value.shape) for name, value in LAYERS[vector]().state_dict().items()}
    assert ours == {key: tuple(shape) for key, (shape, _) in recorded_keys(shared, vector).items()}


@pytest.mark.parametrize("vector", LAYERS)
def test_layer_equals_its_authors_code(shared: Path, vector: str) -> None:
    if not (shared / "reference/parity" / f"{vector}.json").is_file():
        pytest.skip("a key list without a recorded vector")
    assert_vector(shared, vector, LAYERS[vector](), signed=True)


def test_gradients_of_attention_equal_the_authors(shared: Path) -> None:
    recorded = np.load(shared / "reference/parity/bivit_attention_sab_grads.npz")
    model = BinaryAttention(48, HEADS)
    load_recorded(shared, "bivit_attention_sab", model)
    x = (2 * recorded_input([2, 49, 48]) - 1).requires_grad_()
    y = model(x)
    np.testing.assert_allclose(y.detach().numpy(), recorded["y"], atol=1e-4 * np.abs(recorded["y"]).max())
    (y**2).sum().backward()
    gradients = {f"d_{k.replace('.', '__')}": p.grad for k, p in model.named_parameters()}
    for name, gradient in {"dx": x.grad, **gradients}.items():
        assert gradient is not None
        want = recorded[name]
        assert np.abs(gradient.numpy() - want).max() <= 1e-4 * np.abs(want).max(), name


def test_quantizers_equal_the_authors(shared: Path) -> None:
    recorded = np.load(shared / "reference/parity/bivit_softmax_quant.npz")
    x = torch.from_numpy(recorded["x"])
    np.testing.assert_array_equal(softmax_aware(x).numpy(), recorded["out"])
    np.testing.assert_array_equal(binary_sign(x).numpy(), recorded["sign"])
    np.testing.assert_array_equal(binary_step(x).numpy(), recorded["zmean"])


@pytest.mark.parametrize("scales", ["mean", "learned"])
@pytest.mark.parametrize("binary_inputs", [True, False])
@torch.no_grad()
def test_packed_layer_is_the_same_function_in_a_bit_a_weight(scales: Any, binary_inputs: bool) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(512, 136, scales=scales, binary_inputs=binary_inputs)
    packed = reparameterize(layer)
    assert isinstance(packed, PackedLinear)
    assert packed.bits.dtype == torch.uint8
    assert packed.bits.numel() * 8 == layer.weight.numel()
    assert torch.equal(packed.signs(), (layer.weight - layer.weight.mean(1, keepdim=True)).sign())
    x = torch.randn(5, 512)
    want = layer(x)
    assert (packed(x) - want).abs().max() <= 1e-6 * want.abs().max()
    assert sum(p.numel() for p in packed.parameters()) == 2 * 136


@torch.no_grad()
def test_weights_without_sign_keep_their_place() -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(16, 3, scales="learned")
    layer.weight[0] = 0.5  # all equal: no signs at all
    layer.weight[1] = torch.tensor([1.0, -1.0] * 7 + [0.0, 0.0])  # two without sign
    x = torch.randn(4, 16)
    for layer_, kind in ((layer, SignLinear), (BinaryLinear(12, 3), SignLinear)):
        deployed = reparameterize(layer_)
        assert type(deployed) is kind
        torch.testing.assert_close(deployed(x[:, : layer_.in_features]), layer_(x[:, : layer_.in_features]))
    layer.weight[1, -2:] = torch.tensor([2.0, -2.0])
    deployed = reparameterize(layer)
    assert type(deployed) is PackedLinear
    torch.testing.assert_close(deployed(x), layer(x))


def test_scales_that_were_never_set_are_those_of_the_weights() -> None:
    layer = BinaryLinear(16, 3, scales="learned")
    state = {**layer.state_dict(), "scaling_factor": torch.zeros(3, 1), "weight": torch.randn(3, 16)}
    layer.load_state_dict(state)
    torch.testing.assert_close(layer.scales().detach(), state["weight"].abs().mean(1, keepdim=True))


def test_softmax_is_not_needed_to_decide(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(0, 3, (50, 40)).astype(np.float32))
    share = logits.double().softmax(-1)
    want = share >= 0.25 * share.amax(-1, keepdim=True)
    torch.testing.assert_close(softmax_aware(logits), want.float())
    with torch.no_grad():
        torch.testing.assert_close(softmax_aware(logits), want.float())


def test_gradients_pass_where_the_input_is_small() -> None:
    x = torch.tensor([-1.5, -1.0, -0.3, 0.0, 0.9, 1.0, 4.0], requires_grad=True)
    for function, values in ((binary_sign, [-1, -1, -1, 0, 1, 1, 1]), (binary_step, [0, 0, 0, 0, 1, 1, 1])):
        y = function(x)
        assert y.tolist() == values
        (gradient,) = torch.autograd.grad((3 * y).sum(), x)
        assert gradient.tolist() == [0, 0, 3, 3, 3, 0, 0]


@torch.no_grad()
def test_full_precision_form_is_ordinary_attention() -> None:
    torch.manual_seed(0)
    model, x = BinaryAttention(24, 3), torch.randn(2, 7, 24)
    for module in model.modules():
        if isinstance(module, BinaryLinear | BinaryAttention):
            module.binary = False
    q, k, v = F.linear(x, model.qkv.weight, model.qkv.bias).view(2, 7, 3, 3, 8).permute(2, 0, 3, 1, 4)
    want = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 7, 24)
    torch.testing.assert_close(model(x), F.linear(want, model.proj.weight, model.proj.bias))
    torch.testing.assert_close(reparameterize(model)(x), model(x))


@pytest.mark.parametrize("outputs", [24, 200])
def test_file_holds_a_bit_a_weight_and_passes_leave_it_so(tmp_path: Path, outputs: int) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(BinaryLinear(512, 512) for _ in range(4)), BinaryLinear(512, outputs)
            )

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layers(image.flatten(2))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    info = ModelInfo(Tokens, (1, 3, 16, 32), TaskSpec(), outputs=("y",), paper="")
    artifact = capture(reparameterize(Tokens()), CaptureOptions(seeds=1), tmp_path / "m.onnx", info=info)
    weights = 4 * 512 * 512 + 512 * outputs
    assert artifact.path.stat().st_size < weights / 8 + 80_000
    result = optimize(onnx.load(artifact.path))
    assert not result.not_run
    assert result.model.ByteSize() < weights / 8 + 80_000
