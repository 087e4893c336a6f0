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
from edgedeploy.export.capture.capture import capture
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.count import count
from edgedeploy.models.layers.tvconv import ConstantTVConv, TVConv, TVConvBatchNorm
from edgedeploy.models.reparam import reparameterize
from tests.support.parity_vectors import assert_vector, recorded_keys

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


def by_hand(x: torch.Tensor, weight: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """The definition, place by place; weight is (C, k, k, h, w)."""
    height, width = weight.shape[-2:]
    padded = torch.nn.functional.pad(x, [kernel // 2] * 4)
    y = torch.zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            rows, columns = slice(stride * i, stride * i + kernel), slice(stride * j, stride * j + kernel)
            y[:, :, i, j] = (padded[:, :, rows, columns] * weight[:, :, :, i, j]).sum((2, 3))
    return y


def shake(model: nn.Module) -> nn.Module:
    """Affinity maps, norms and statistics as a training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, TVConv):
            nn.init.normal_(module.posi_map, 1.0, 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.2, 2.0, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.3, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    return model.eval()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("stride", "size"), [(1, (5, 7)), (2, (10, 14)), (2, (9, 13))])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_layer_is_its_definition(kernel: int, stride: int, size: tuple[int, int], bias: bool) -> None:
    layer = TVConv(4, 5, 7, kernel=kernel, stride=stride, inner=8, bias=bias)
    nn.init.normal_(layer.posi_map)
    x = torch.randn(2, 4, *size)
    weight = layer.weight_layers(layer.posi_map).view(4, kernel, kernel, 5, 7)
    want = by_hand(x, weight, kernel, stride)
    if bias:
        assert layer.bias_layers is not None
        want = want + layer.bias_layers(layer.posi_map)
    torch.testing.assert_close(layer(x), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.fuse()(x), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (4, 6), (12, 16)])
def test_input_of_another_size_is_refused_not_cropped(size: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError, match="size of tensor"):
        TVConv(2, 5, 7)(torch.zeros(1, 2, *size))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_batchnorm_goes_into_the_constant_kernels(bias: bool, affine: bool) -> None:
    norm = nn.BatchNorm2d(4, affine=affine)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model = TVConvBatchNorm(TVConv(4, 6, 6, stride=2, bias=bias), norm, nn.ReLU6()).eval()
    deployed = reparameterize(model)
    assert [type(m) for m in deployed] == [ConstantTVConv, nn.ReLU6]  # type: ignore[union-attr]
    x = torch.randn(2, 4, 12, 12)
    torch.testing.assert_close(deployed(x), model(x), atol=1e-5, rtol=1e-5)


def test_batchnorm_of_batches_is_not_folded() -> None:
    with pytest.raises(TypeError, match="without running statistics"):
        TVConv(4, 6, 6).deploy(nn.BatchNorm2d(4, track_running_stats=False))


def test_checkpoint_of_another_stride_is_refused() -> None:
    with pytest.raises(RuntimeError, match="stride is 2 in the checkpoint, and 1 here"):
        TVConv(4, 6, 6).load_state_dict(TVConv(4, 6, 6, stride=2).state_dict())


def test_deploy_form_costs_what_the_authors_say(shared: Path) -> None:
    for vector in ("tvconv_face_mobilenetv2_x0_1_TVConv", "tvconv_face_mobilenetv2_x0_5_TVConv"):
        info = json.loads((shared / "reference/parity" / f"{vector}.json").read_text())
        deployed = reparameterize(build(vector))
        assert count(deployed, (1, 3, 96, 96)).macs == info["macs_exported_conv_linear_b1"]
        layers = [m for m in deployed.modules() if isinstance(m, ConstantTVConv)]
        assert sum(tap.numel() for m in layers for tap in m.taps) == info["exported_weight_map_elems"]


@pytest.mark.parametrize("name", ["tvconv_face_micro", "tvconv_face_x0_1_base", "tvconv_disc_cup_dw"])
def test_no_norm_is_left_in_deploy_form(name: str) -> None:
    deployed = reparameterize(shake(create_model(name)))
    assert not [key for key, m in deployed.named_modules() if "Norm" in type(m).__name__]


def test_export_is_standard_operators(tmp_path: Path) -> None:
    import onnx

    info = MODELS.get("tvconv_face_micro")
    network = reparameterize(shake(create_model(info.name)))
    artifact = capture(network, CaptureOptions(seeds=1), tmp_path / "m.onnx", info=info, name=info.name)
    assert artifact.history[0].options["exporter"] == "dynamo"
    nodes = onnx.load(artifact.path).graph.node
    assert {node.domain for node in nodes} == {""}
    assert {n.op_type for n in nodes} <= {
        "Conv", "Clip", "Pad", "Slice", "Mul", "Add", "AveragePool", "Reshape", "Gemm"
    }  # fmt: skip


def test_another_size_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tvconv_face_micro takes 48 x 48 only, not 96 x 48"):
        capture("tvconv_face_micro", CaptureOptions(height=96), tmp_path / "m.onnx")


@pytest.mark.parametrize(("name", "side"), [("tvconv_face_micro", 32), ("tvconv_disc_cup", 64)])
@torch.no_grad()
def test_network_for_another_size(name: str, side: int) -> None:
    network = create_model(name, image_size=side).eval()
    assert network(torch.zeros(1, 3, side, side)).isfinite().all()
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 2 * side, 2 * side))
    with pytest.raises(UsageError, match="cannot be built for images of 40 x 40"):
        create_model(name, image_size=40)
