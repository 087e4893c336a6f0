"""DBNet against its authors' recorded outputs and names, its deformable convolution against others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.models import create_model
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.count import count
from edgedeploy.models.layers.deformable import ModulatedDeformConv2d, deform_conv2d
from edgedeploy.models.layers.resnet import Bottleneck
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.zoo.dbnet import UNUSED
from tests.support.parity_vectors import recorded_state

Array = np.ndarray[Any, Any]

# vector and key list -> (model, options)
VECTORS: dict[str, tuple[str, dict[str, str]]] = {
    "dbnet_resnet18": ("dbnet_resnet18", {}),
    "dbnet_resnet50": ("dbnet_resnet50", {}),
    "dbnet_deformable_resnet18": ("dbnet_deformable_resnet18", {}),
    "dbnet_mobilenetv3_large": ("dbnet_mobilenetv3_large", {}),
    **{
        f"dbnetpp_resnet18_{form}": ("dbnetpp_resnet18", {"fusion": form})
        for form in ("scale_spatial", "scale_channel", "scale_channel_spatial")
    },
}
KEY_LISTS = {
    **VECTORS,
    "dbnet_deformable_resnet50": ("dbnet_deformable_resnet50", {}),
    "dbnetpp_resnet50_scale_channel_spatial": ("dbnetpp_resnet50", {}),
    "dbnetpp_deformable_resnet50_asf_td500": ("dbnetpp_deformable_resnet50", {}),
}
TOLERANCES = {"binary": 1e-4, "thresh": 1e-4, "thresh_binary": 1e-3}


@pytest.mark.parametrize("vector", VECTORS)
def test_network_equals_its_authors_code(shared: Path, vector: str) -> None:
    name, options = VECTORS[vector]
    info = json.loads((shared / "reference/parity" / f"{vector}.json").read_text())
    recorded = np.load(shared / "reference/parity" / f"{vector}.npz")
    model = create_model(name, **options, augment=True).eval()
    state = recorded_state(shared, vector, model)
    model.load_state_dict(state, strict=True)

    x = torch.from_numpy(np.random.default_rng(0).random(info["input_shape"]).astype(np.float32))
    with torch.no_grad():
        outputs = model(x)
    for y, (key, figures) in zip(outputs, info["outputs"].items(), strict=True):
        assert list(y.shape) == figures["shape"]
        part = y.numpy()[tuple(slice(None, None, stride) for stride in figures["strides"])]
        tolerance = max(TOLERANCES[key], 5e-4 if "pp" in vector else 0)
        assert np.abs(part - recorded[key]).max() <= tolerance * np.abs(recorded[key]).max(), key

    counts = count(model, tuple(info["input_shape"]))
    assert counts.params == info["params_total"]
    assert counts.macs == info["macs_at_input"]

    lean = create_model(name, **options).eval()
    lean.load_state_dict({k: v for k, v in state.items() if k in lean.state_dict()}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(lean(x), outputs[0], rtol=0, atol=1e-6)
    for shape, macs in info["macs_other"].items():
        size = tuple(map(int, shape.removesuffix("_binary_only").split("x")))
        assert count(lean, size).macs == macs
    if "params_inference" in info:
        assert count(lean, (1, 3, 32, 32)).params == info["params_inference"]


@pytest.mark.parametrize("keys", KEY_LISTS)
def test_parameter_names_and_shapes_are_the_official_ones(shared: Path, keys: str) -> None:
    name, options = KEY_LISTS[keys]
    model = create_model(name, **options, augment=True)
    official = recorded_state(shared, keys, model)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in official.items()}


def test_a_released_checkpoint_loads_and_names_what_it_does_not_use(shared: Path, tmp_path: Path) -> None:
    official = recorded_state(shared, "dbnet_mobilenetv3_large", nn.Identity())
    path = tmp_path / "released.pth"
    torch.save({f"model.module.{key}": value for key, value in official.items()}, path)
    loaded = load_checkpoint("dbnet_mobilenetv3_large", path)
    idle = [k for k in official if k.startswith(("decoder.thresh.", *UNUSED))]
    assert sorted(loaded.unused) == sorted(idle)
    assert len(idle) == 15 + 2
    whole = load_checkpoint("dbnet_mobilenetv3_large", path, augment=True)
    assert whole.unused == ()
    torch.save({f"model.module.{k}": v for k, v in official.items() if "features.9." not in k}, path)
    with pytest.raises(UsageError, match=r"features\.9"):
        load_checkpoint("dbnet_mobilenetv3_large", path)


def test_unread_parameters_are_frozen_and_gone_from_the_deploy_form() -> None:
    for name in ("dbnet_resnet18", "dbnet_mobilenetv3_large"):
        model = create_model(name, augment=True).eval()
        frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
        unread = (*UNUSED, "backbone.features.18.")
        assert frozen == {key for key, _ in model.named_parameters() if key.startswith(unread)}
        sum(y.sum() for y in model(torch.rand(1, 3, 32, 64))).backward()
        assert {key for key, p in model.named_parameters() if p.grad is None} == frozen
        shapes = {tuple(p.shape) for p in reparameterize(model).parameters()}
        assert not shapes & {
            tuple(p.shape) for key, p in model.named_parameters() if key in frozen and p.ndim > 1
        }


def test_deploy_form_of_training_keeps_all_three_maps() -> None:
    model = create_model("dbnetpp_resnet18", fusion="scale_channel", augment=True).eval()
    deployed = reparameterize(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for one, two in zip(model(x), deployed(x), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_unknown_fusion_is_named() -> None:
    with pytest.raises(UnknownNameError, match="scale_spacial") as caught:
        create_model("dbnetpp_resnet18", fusion="scale_spacial")
    assert "scale_spatial" in caught.value.hint


def literal_deform_conv(x: Array, w: Array, offset: Array, mask: Array, stride: int, padding: int) -> Array:
    """The definition, in loops: bilinear reading with zeros outside."""
    n, channels, height, width = x.shape
    k, (rows, columns) = w.shape[-1], offset.shape[-2:]
    y = np.zeros((n, len(w), rows, columns))

    def pixel(image: Array, i: int, j: int) -> Array:
        return image[:, i, j] if 0 <= i < height and 0 <= j < width else np.zeros(channels)

    for b, r, c, tap in np.ndindex(n, rows, columns, k * k):
        i, j = divmod(tap, k)
        v = r * stride - padding + i + offset[b, 2 * tap, r, c]
        h = c * stride - padding + j + offset[b, 2 * tap + 1, r, c]
        top, left = int(np.floor(v)), int(np.floor(h))
        fv, fh = v - top, h - left
        value = sum(
            pixel(x[b], top + di, left + dj) * (fv if di else 1 - fv) * (fh if dj else 1 - fh)
            for di in (0, 1)
            for dj in (0, 1)
        )
        y[b, :, r, c] += w[:, :, i, j] @ value * mask[b, tap, r, c]
    return y


def onnx_deform_conv(
    x: Array, w: Array, offset: Array, mask: Array, b: Array, stride: int, padding: int
) -> Array:
    """ONNX Runtime's kernel."""
    feeds = {"x": x, "w": w, "offset": offset, "b": b, "mask": mask}
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in feeds.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("DeformConv", list(feeds), ["y"], strides=[stride] * 2, pads=[padding] * 4)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.parametrize(
    ("size", "stride", "kernel"), [((7, 9), 1, 3), ((8, 6), 2, 3), ((1, 5), 1, 3), ((6, 6), 1, 5)]
)
def test_deformable_convolution_by_definition_and_by_onnx_runtime(
    rng: np.random.Generator, size: tuple[int, int], stride: int, kernel: int
) -> None:
    taps, out = kernel**2, [(s - 1) // stride + 1 for s in size]
    x = rng.standard_normal((2, 3, *size)).astype(np.float32)
    w = rng.standard_normal((4, 3, kernel, kernel)).astype(np.float32)
    b = rng.standard_normal(4).astype(np.float32)
    offset = rng.uniform(-4, 4, (2, 2 * taps, *out)).astype(np.float32)
    offset.flat[::7] = np.rint(offset.flat[::7])
    mask = rng.random((2, taps, *out)).astype(np.float32)
    have = deform_conv2d(*map(torch.from_numpy, (x, w, offset, mask, b)), stride, kernel // 2).numpy()
    literal = literal_deform_conv(x, w, offset, mask, stride, kernel // 2) + b[:, None, None]
    np.testing.assert_allclose(have, literal, atol=1e-4)
    # ONNX Runtime's own kernel is the one that deployed graphs meet.
    np.testing.assert_allclose(
        onnx_deform_conv(x, w, offset, mask, b, stride, kernel // 2), literal, atol=1e-4
    )


def test_without_offsets_it_is_a_convolution_of_half_weight(rng: np.random.Generator) -> None:
    conv = ModulatedDeformConv2d(3, 5, 3)
    x = torch.rand(2, 3, 8, 11)
    field = torch.zeros(2, conv.field_channels, 8, 11)
    plain = torch.nn.functional.conv2d(x, conv.weight, padding=1) / 2
    torch.testing.assert_close(conv(x, field), plain, rtol=1e-4, atol=1e-5)


def test_gradients_reach_input_weight_offset_and_mask() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    parts = (draw(1, 2, 4, 5), draw(3, 2, 3, 3), draw(1, 18, 4, 5), draw(1, 9, 4, 5), draw(3))
    assert torch.autograd.gradcheck(lambda *a: deform_conv2d(*a, 1, 1), parts)


def test_strided_block_reads_its_field_as_the_released_kernel_does(rng: np.random.Generator) -> None:
    """The kernel's index ((2 t + axis) h + row) w + column, with h and w of the output, into raw memory."""
    conv = ModulatedDeformConv2d(2, 3, 3, stride=2)
    x = rng.standard_normal((2, 2, 6, 8)).astype(np.float32)
    field = rng.standard_normal((2, 27, 6, 8)).astype(np.float32)
    offset, mask = np.zeros((2, 18, 3, 4), np.float32), np.zeros((2, 9, 3, 4), np.float32)
    for image, row, column, tap in np.ndindex(2, 3, 4, 9):
        memory, gates = field[image, :18].ravel(), field[image, 18:].ravel()
        for axis in (0, 1):
            offset[image, 2 * tap + axis, row, column] = memory[((2 * tap + axis) * 3 + row) * 4 + column]
        mask[image, tap, row, column] = 1 / (1 + np.exp(-gates[(tap * 3 + row) * 4 + column]))
    want = literal_deform_conv(x, conv.weight.detach().numpy(), offset, mask, 2, 1)
    with torch.no_grad():
        have = conv(torch.from_numpy(x), torch.from_numpy(field)).numpy()
    np.testing.assert_allclose(have, want, atol=1e-4)


def test_deformable_block_starts_undeformed_and_folds() -> None:
    model = create_model("dbnet_deformable_resnet50")
    offsets = [m for n, m in model.named_modules() if n.endswith("conv2_offset")]
    assert len(offsets) == 4 + 6 + 3
    assert all(not m.weight.any() and not m.bias.any() for m in offsets)
    block = Bottleneck(16, 4, 2, deformable=True).eval()
    nn.init.normal_(block.conv2_offset.weight, 0, 0.2)
    nn.init.uniform_(block.bn2.running_mean)
    nn.init.uniform_(block.bn2.running_var, 0.5, 2)
    x = torch.rand(2, 16, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(reparameterize(block)(x), block(x), rtol=1e-4, atol=1e-5)
    # The field is made at the resolution of the input, as in the released networks.
    assert block.conv2_offset(block.conv1(x)).shape == (2, 27, 12, 10)
