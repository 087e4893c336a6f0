"""Capture: both exporters, proof against the network, every kind of source, self-describing files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgedeploy.core.errors import (
    ArtifactError,
    ExportError,
    OutputError,
    ParityError,
    UnknownNameError,
    UsageError,
)
from edgedeploy.core.recipe import CaptureOptions, OptimizeOptions
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.export.capture import capture as capture_module
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.optimize import optimize_artifact
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.metadata import save_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.models.registry import MODELS, ModelInfo, create_model

SMALL = CaptureOptions(height=16, width=24, seeds=2)


class Plain(nn.Module):
    """Convolution, BatchNorm, and a sum that makes the second BatchNorm stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.norm(self.conv(x)))


class Two(Plain):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return {"features": y, "mean": y.mean((2, 3))}


class Branching(Plain):
    """Python looks at values: dynamo refuses, tracing keeps the one branch that is ever taken."""

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return y if float(y.abs().sum()) >= 0 else -y


class Deceptive(Plain):
    """Here tracing keeps one branch of two that are taken: images of little contrast, and others."""

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return y if float(x.abs().mean()) < 1.5 else -y


def info(multiple: int = 1, **changes: Any) -> ModelInfo:
    task = TaskSpec(
        name="segmentation", options={"mean": [123.675, 116.28, 103.53], "std": [58.4, 57.1, 57.4]}
    )
    values = {
        "input_shape": (1, 3, 16, 24),
        "outputs": ("logits",),
        "labels": ("a", "b", "c", "d"),
        **changes,
    }
    return ModelInfo(build=Plain, task=task, paper="none", size_multiple=multiple, **values)


def step_options(artifact: Artifact) -> dict[str, Any]:
    assert artifact.history[-1].name == "capture"
    return artifact.history[-1].options


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_both_exporters_give_the_network_in_both_forms(exporter: Any, dynamic: bool, tmp_path: Path) -> None:
    options = SMALL.model_copy(update={"exporter": exporter, "dynamic": dynamic})
    artifact = capture("espcn_x3", options, tmp_path / "m.onnx")
    assert artifact.inputs[0].name == "image"
    assert artifact.inputs[0].shape == ((1, 1, "height", "width") if dynamic else (1, 1, 16, 24))
    assert artifact.inputs[0].layout == "NCHW"
    assert artifact.outputs[0].name == "sr"
    assert artifact.task.name == "super-resolution"
    assert step_options(artifact) == {"exporter": exporter, "opset": 20, "dynamic": dynamic, "why": ""}
    assert artifact.history[-1].error is not None
    assert 0 < artifact.history[-1].error < 1e-5
    reloaded = Artifact.load(tmp_path / "m.onnx")
    assert reloaded == artifact
    if dynamic:
        shape = Evaluator(onnx.load(artifact.path))({"image": np.zeros((1, 1, 10, 14), np.float32)})[
            "sr"
        ].shape
        assert shape == (1, 1, 30, 42)


def test_the_network_keeps_its_mode_and_its_labels(tmp_path: Path) -> None:
    network = Plain().train()
    artifact = capture(network, SMALL, tmp_path / "m.onnx", info=info(), name="plain")
    assert network.training
    assert network.norm.num_batches_tracked == 0
    assert (artifact.model, artifact.labels) == ("plain", ("a", "b", "c", "d"))


def test_several_outputs_get_names(tmp_path: Path) -> None:
    artifact = capture(Two(), SMALL, tmp_path / "m.onnx", info=info())
    assert [str(spec) for spec in artifact.outputs] == [
        "logits: float32[1, 4, 16, 24]",
        "output1: float32[1, 4]",
    ]


def test_no_trace_of_this_machine_is_left_in_the_file(tmp_path: Path) -> None:
    artifact = capture(Plain(), SMALL, tmp_path / "m.onnx")
    data = artifact.path.read_bytes()
    assert b"site-packages" not in data
    assert str(Path(__file__).parent).encode() not in data


def test_torchscript_takes_over_and_says_why(tmp_path: Path) -> None:
    artifact = capture(Branching(), SMALL, tmp_path / "m.onnx")
    options = step_options(artifact)
    assert options["exporter"] == "torchscript"
    assert options["why"].startswith("dynamo exporter: ")


def test_an_exporter_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dynamo exporter"):
        capture(Branching(), SMALL.model_copy(update={"exporter": "dynamo"}), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_differs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="torchscript exporter: the result is off"):
        capture(Deceptive(), SMALL, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_dynamo_result_that_differs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = capture_module.export_dynamo

    def slightly_off(*args: Any) -> onnx.ModelProto:
        model = real(*args)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.001)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return model

    monkeypatch.setattr(capture_module, "export_dynamo", slightly_off)
    options = step_options(capture(Plain(), SMALL, tmp_path / "m.onnx"))
    assert options["exporter"] == "torchscript"
    assert "dynamo exporter: the result is off the network by" in options["why"]


def test_parity_is_checked_on_the_images_given(tmp_path: Path) -> None:
    class Wrong(Plain):
        """Differs from what is traced for bright images only."""

        def forward(self, x: Tensor) -> Any:
            return self.conv(x) * (2 if float(x.mean()) > 50 else 1)

    bright = np.full((1, 3, 16, 24), 255, np.float32)
    options = SMALL.model_copy(update={"exporter": "torchscript"})
    capture(Wrong(), options, tmp_path / "m.onnx")
    with pytest.raises(ParityError):
        capture(Wrong(), options, tmp_path / "n.onnx", images=[bright])


FACTORY = """
from torch import nn
def make(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())
def number():
    return 3
"""


def test_a_factory_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_user_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    artifact = capture("some_user_net:make", SMALL, tmp_path / "m.onnx", builder_options={"width": 6})
    assert (artifact.model, artifact.outputs[0].shape) == ("make", (1, 6, 14, 22))
    with pytest.raises(UsageError, match="gave a int"):
        capture("some_user_net:number", SMALL, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="cannot find"):
        capture("some_user_net:absent", SMALL, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="does not take these options"):
        capture("some_user_net:make", SMALL, tmp_path / "m.onnx", builder_options={"depth": 6})
    with pytest.raises(UsageError, match="input shape") as error:
        capture("some_user_net:make", CaptureOptions(), tmp_path / "m.onnx")
    assert "--size HxW" in error.value.hint


class Pair(Plain):
    """Wants two images, which no example has."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x - y)


class Nothing(Plain):
    def forward(self, x: Tensor) -> Any:
        super().forward(x)


@pytest.mark.parametrize(("network", "says"), [(Pair(), "argument: 'y'"), (Nothing(), "NoneType")])
def test_a_network_that_fails_on_one_image_is_refused(network: Plain, says: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"fails on one input of shape \[1, 3, 16, 24\].*" + says) as caught:
        capture(network, SMALL, tmp_path / "m.onnx")
    assert ".onnx" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_pt2_archive_is_captured(tmp_path: Path) -> None:
    program = torch.export.export(Plain().eval(), (torch.randn(1, 3, 16, 24),))
    torch.export.save(program, tmp_path / "net.pt2")
    artifact = capture(tmp_path / "net.pt2", CaptureOptions(seeds=1), tmp_path / "m.onnx")
    assert (artifact.model, artifact.inputs[0].shape) == ("net", (1, 3, 16, 24))
    with pytest.raises(UsageError, match="built in"):
        capture(tmp_path / "net.pt2", SMALL, tmp_path / "m.onnx")
    (tmp_path / "net.pt2").write_bytes(b"not an archive")
    with pytest.raises(ArtifactError, match=r"not a torch\.export archive"):
        capture(tmp_path / "net.pt2", CaptureOptions(), tmp_path / "m.onnx")


def test_a_bad_pt2_is_one_error_without_tracebacks_of_torch(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"not an archive")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("torch.export")
    log.addHandler(handler)
    try:
        with pytest.raises(ArtifactError):
            capture(tmp_path / "net.pt2", CaptureOptions(), tmp_path / "m.onnx")
    finally:
        log.removeHandler(handler)
    assert records == []
    assert not log.disabled


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".th"])
def test_pickles_are_refused(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"net{suffix}").write_bytes(b"anything")
    with pytest.raises(UsageError, match="pickle") as error:
        capture(tmp_path / f"net{suffix}", SMALL, tmp_path / "m.onnx")
    assert ".pt2" in error.value.hint


def test_an_onnx_file_is_adopted(tmp_path: Path, rng: np.random.Generator) -> None:
    model = text_model("float[1,3,8,6] x", "y", "y = Conv(x, w)", {"w": floats(rng, 4, 3, 3, 3)})
    model.metadata_props.add(key="author", value="someone")
    onnx.save(model, tmp_path / "theirs.onnx")
    artifact = capture(tmp_path / "theirs.onnx", SMALL, tmp_path / "m.onnx")
    assert (artifact.model, artifact.outputs[0].shape) == ("theirs", (1, 4, 6, 4))
    assert {e.key for e in onnx.load(artifact.path).metadata_props} == {"author", "edgedeploy"}
    data = (tmp_path / "theirs.onnx").read_bytes()
    (tmp_path / "theirs.onnx").write_bytes(data[:-20])
    with pytest.raises(ArtifactError):
        capture(tmp_path / "theirs.onnx", SMALL, tmp_path / "m.onnx")


def test_unknown_sources_have_hints(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="espcn_x5") as unknown:
        capture("espcn_x5", SMALL, tmp_path / "m.onnx")
    assert "espcn_x" in unknown.value.hint
    with pytest.raises(ArtifactError, match="does not exist"):
        capture("absent.onnx", SMALL, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="multiples of 8") as misfit:
        capture(Plain(), CaptureOptions(height=20, width=24), tmp_path / "m.onnx", info=info(8))
    assert "16 x 24" in misfit.value.hint


def test_opsets_are_what_was_asked_for(tmp_path: Path) -> None:
    artifact = capture(Plain(), SMALL.model_copy(update={"opset": 19}), tmp_path / "m.onnx")
    assert onnx.load(artifact.path).opset_import[0].version == 19
    beyond = SMALL.model_copy(update={"opset": 23, "exporter": "torchscript"})
    with pytest.raises(ExportError, match="opset 23"):
        capture(Plain(), beyond, tmp_path / "m.onnx")


def test_large_models_keep_their_weights_beside_them(tmp_path: Path, rng: np.random.Generator) -> None:
    model = text_model("float[1,3,8,6] x", "y", "y = Conv(x, w)", {"w": floats(rng, 64, 3, 3, 3)})
    artifact = Artifact(path=tmp_path, kind="onnx", model="m", inputs=(), outputs=())
    stored = save_model(model, artifact, tmp_path / "m.onnx", limit=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert Artifact.load(tmp_path / "m.onnx") == stored
    loaded = onnx.load(tmp_path / "m.onnx").graph.initializer[0]
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(loaded), onnx.numpy_helper.to_array(model.graph.initializer[0])
    )


def test_nothing_is_left_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        capture("espcn_x2", SMALL, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def embedded_in(artifact: Artifact, out: Path, **switches: bool) -> Artifact:
    """The artifact after the passes that these switches of the recipe add, and no others."""
    return optimize_artifact(artifact, OptimizeOptions(passes=(), **switches), out)


def test_preprocessing_moves_from_the_task_into_the_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = capture(Plain(), SMALL, tmp_path / "m.onnx", info=info())
    embedded = embedded_in(plain, tmp_path / "p.onnx", preprocess=True, uint8_input=True)
    assert embedded == Artifact.load(tmp_path / "p.onnx")
    assert str(embedded.inputs[0]) == "image: uint8[1, 16, 24, 3]"
    assert embedded.inputs[0].layout == "NHWC"
    assert (embedded.task.options["mean"], embedded.task.options["std"]) == ([0.0] * 3, [1.0] * 3)
    pixels = rng.integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    mean, std = (np.array(plain.task.options[key]) for key in ("mean", "std"))
    image = ((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    expected = Evaluator(onnx.load(plain.path))({"image": image})["logits"]
    got = Evaluator(onnx.load(embedded.path))({"image": pixels})["logits"]
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    again = embedded_in(embedded, tmp_path / "q.onnx", uint8_input=True)
    assert len(onnx.load(again.path).graph.node) == len(onnx.load(embedded.path).graph.node)


def test_heads_give_class_numbers_and_pixels(tmp_path: Path) -> None:
    plain = capture(Plain(), SMALL, tmp_path / "m.onnx", info=info())
    classes = embedded_in(plain, tmp_path / "a.onnx", argmax=True)
    assert str(classes.outputs[0]) == "logits: uint8[1, 16, 24]"
    pixels = embedded_in(plain, tmp_path / "u.onnx", uint8_output=True)
    assert str(pixels.outputs[0]) == "logits: uint8[1, 4, 16, 24]"
    with pytest.raises(UsageError, match="does not fit"):
        embedded_in(classes, tmp_path / "b.onnx", argmax=True)
    nameless = capture(Plain(), SMALL, tmp_path / "n.onnx")
    with pytest.raises(UsageError, match="mean and std"):
        embedded_in(nameless, tmp_path / "x.onnx", preprocess=True)


@pytest.mark.slow
def test_ddrnet_keeps_twelve_batchnorms_at_most(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("ddrnet_23_slim")
    options = CaptureOptions(height=64, width=128, seeds=1)
    artifact = capture(network, options, tmp_path / "d.onnx", info=MODELS.get("ddrnet_23_slim"), name="d")
    assert step_options(artifact)["exporter"] == "dynamo"
    result = optimize(onnx.load(artifact.path))
    assert not result.reverted
    assert sum(node.op_type == "BatchNormalization" for node in result.model.graph.node) <= 12
