"""STDO's five backbones against recorded vectors, counts and key lists; weight norm gone in deploy form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgedeploy.core.errors import UsageError
from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.export.capture.capture import capture
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.count import count
from edgedeploy.models.layers.weight_norm import WeightNormConv2d
from edgedeploy.models.reparam import reparameterize
from tests.support.parity_vectors import recorded_input, recorded_keys, seeded

BACKBONES = ("wdsr", "espcn", "srcnn", "vdsr", "edsr")
NAMES = [f"stdo_{backbone}_x{scale}" for backbone in BACKBONES for scale in (2, 3, 4)]
UNREAD = {"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"}


def unread(name: str) -> set[str]:
    return UNREAD if "vdsr" in name or "edsr" in name else set()


def recorded_checkpoint(shared: Path, name: str, folder: Path, prefix: str = "") -> Path:
    """A checkpoint file with all the official keys and their recorded values."""
    keys = recorded_keys(shared, name)
    path = folder / f"{name}.safetensors"
    save_file({prefix + key: seeded(key, shape, kind) for key, (shape, kind) in keys.items()}, path)
    return path


def test_every_recorded_network_is_in_the_zoo(shared: Path) -> None:
    assert {path.stem for path in (shared / "reference/keys").glob("stdo_*.json")} == set(NAMES)
    ours = {f"stdo_espcn_micro_x{scale}" for scale in (2, 3, 4)}
    assert {name for name in MODELS.names() if name.startswith("stdo_")} == set(NAMES) | ours


def test_micro_networks_are_the_same_with_fewer_channels() -> None:
    for scale, params in ((2, 6_828), (3, 9_003), (4, 12_048)):
        micro, full = create_model(f"stdo_espcn_micro_x{scale}"), create_model(f"stdo_espcn_x{scale}")
        assert list(micro.state_dict()) == list(full.state_dict())
        assert count(micro, (1, 3, 8, 8)).params == params


@pytest.mark.parametrize("name", NAMES)
def test_official_checkpoint_loads_and_names_what_nothing_reads(
    shared: Path, tmp_path: Path, name: str
) -> None:
    for prefix in ("", "module."):
        loaded = load_checkpoint(name, recorded_checkpoint(shared, name, tmp_path, prefix))
        assert {key.removeprefix(prefix) for key in loaded.unused} == unread(name)
    official = recorded_keys(shared, name)
    ours = {key: list(value.shape) for key, value in loaded.model.state_dict().items()}
    assert ours == {key: shape for key, (shape, _) in official.items() if key not in unread(name)}


@pytest.mark.parametrize("name", NAMES)
def test_network_equals_its_authors_code(shared: Path, tmp_path: Path, name: str) -> None:
    file = shared / "reference/parity" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"no vector of {name} is recorded")
    info = json.loads(file.read_text())
    recorded = np.load(file.with_suffix(".npz"))
    model = load_checkpoint(name, recorded_checkpoint(shared, name, tmp_path)).model
    x = recorded_input(info["input_shape"])
    before = x.clone()
    np.testing.assert_array_equal(x.numpy().ravel()[:16], recorded["input_head"].ravel())
    for form in (model, reparameterize(model)):
        with torch.no_grad():
            y = form(x).numpy()
        assert list(y.shape) == info["outputs"]["sr"]["shape"]
        part = y[tuple(slice(None, None, stride) for stride in info["outputs"]["sr"]["strides"])]
        assert np.abs(part - recorded["sr"]).max() <= 1e-4 * np.abs(recorded["sr"]).max()
        assert torch.equal(x, before)  # the released WDSR writes to its input

    counts = count(model, tuple(info["input_shape"]))
    assert counts.params == info["params_trainable"]
    assert counts.params + 24 * bool(unread(name)) == info["params_total"]
    assert counts.macs == info["macs_at_input"]
    for shape, macs in info["macs_other"].items():
        assert count(model, tuple(map(int, shape.split("x")))).macs == macs
    if "params_fused_weightnorm" in info:
        assert count(reparameterize(model), (1, 3, 8, 8)).params == info["params_fused_weightnorm"]


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_another_scale_or_backbone_are_refused(shared: Path, tmp_path: Path, name: str) -> None:
    other = NAMES[(NAMES.index(name) + 3) % len(NAMES)]
    with pytest.raises(UsageError, match=f"{name}"):
        load_checkpoint(name, recorded_checkpoint(shared, other, tmp_path))


def test_weight_norm_is_the_one_of_pytorch_and_folds() -> None:
    torch.manual_seed(0)
    ours = WeightNormConv2d(5, 7, 3, gain=1.5)
    torch.nn.init.normal_(ours.weight_g)
    torch.nn.init.normal_(ours.bias)
    theirs = torch.nn.Conv2d(5, 7, 3, padding=1)
    torch.nn.utils.parametrizations.weight_norm(theirs)
    theirs.parametrizations.weight.original0.data = ours.weight_g.data
    theirs.parametrizations.weight.original1.data = ours.weight_v.data
    theirs.bias.data = ours.bias.data
    x = torch.randn(2, 5, 6, 8)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.fuse()(x), theirs(x))


@pytest.mark.parametrize("name", [f"stdo_{backbone}_x2" for backbone in (*BACKBONES, "espcn_micro")])
def test_margin_is_how_far_a_pixel_reaches(name: str) -> None:
    info, scale = MODELS.get(name), 2
    margin = info.task.options["margin"]
    torch.manual_seed(1)
    model = create_model(name).double().requires_grad_(False)
    side = 2 * margin + 9
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    y = model(x)[0, :, scale * middle : scale * middle + scale, scale * middle : scale * middle + scale]
    (y**2).sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(0).nonzero()
    reach = int((reached - middle).abs().max())
    assert margin - 2 <= reach <= margin


EXPORTED = [f"stdo_{backbone}_x{scale}" for backbone in BACKBONES for scale in (2, 3)]
# One that enlarges by DepthToSpace and one by Resize; the golden files are of a capture of each backbone.
AT_ONCE = ("stdo_espcn_x2", "stdo_vdsr_x2")


@pytest.mark.parametrize(
    "name", [name if name in AT_ONCE else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED]
)
def test_export_takes_any_size_and_holds_plain_convolutions(name: str, tmp_path: Path) -> None:
    """Capture compares with PyTorch at several sizes; here one more, that it has not seen."""
    import onnxruntime

    torch.manual_seed(2)
    model = create_model(name).eval()
    options = CaptureOptions(height=20, width=28, dynamic=True, seeds=1)
    artifact = capture(model, options, tmp_path / "x.onnx", info=MODELS.get(name), name=name)
    graph = onnx.load(artifact.path).graph
    operators = {node.op_type for node in graph.node}
    assert operators <= {"Conv", "Relu", "Add", "Sub", "DepthToSpace", "Resize"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[1] in constants for node in convolutions)
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    for height, width in ((20, 28), (37, 19)):
        x = torch.rand(1, 3, height, width)
        with torch.no_grad():
            expected = model(x).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
