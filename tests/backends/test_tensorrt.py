"""TensorRT: real engines for every GPU generation, built without one; sidecars and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedeploy.backends import BACKENDS, Backend, BuildOptions, OpenOptions
from edgedeploy.core.details import Details, EngineDetails
from edgedeploy.core.errors import ArtifactError, BuildError, DeviceError, EngineMismatchError, UsageError
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.core.target import Target, load_target
from edgedeploy.runtime import cuda as _cuda
from edgedeploy.runtime.kernel_log import parse_kernels, summarize
from tests.support.onnx_models import save_convolutions, save_int32_bias, save_quantized

SHAPE = (1, 3, 16, 24)
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
LOG = """
[Trace] unrelated
Layers:
Name: old, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
done
Layers:
Name: move, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,3,4,5], Strides: [60,20,5,1], \
Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { Name: q, \
Dimensions: [1,4,4,5], Strides: [80,1,20,4], Datatype: Int8, \
Format: (NHWC) Channel major format }], TacticName: t, StreamId: 0, Metadata: 
Name: conv, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [1,4,4,5], Datatype: Int8, Format: a }, \
{ Name: skip, Dimensions: [1,8,4,5], Datatype: Half, Format: b }], Constants: [ { Name: w, \
Dimensions: [8,4,3,3], Datatype: Int8, Format: c }], \
Outputs: [ { Name: y, Dimensions: [1,8,4,5], Datatype: Half, Format: d }], \
TacticName: t, StreamId: 0, Metadata: [ONNX Layer: conv [a]][ONNX Layer: add]

I/O Tensors:
Name: not a kernel
"""  # noqa: W291  the compiler ends lines with a space


@pytest.fixture
def rtx() -> Backend:
    backend: Backend = BACKENDS.get("tensorrt-rtx")
    if backend.why_not():
        pytest.skip(backend.why_not())
    return backend


def target(capability: str | None) -> Target:
    return load_target("rtx-4090").model_copy(update={"name": "test", "compute_capability": capability})


@pytest.fixture
def engine(rtx: Backend, tmp_path: Path) -> Artifact:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))
    return rtx.build(source, target("8.9"), BuildOptions(), tmp_path / "m.engine")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_engine_for_every_generation(rtx: Backend, capability: str, tmp_path: Path) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))
    built = rtx.build(source, target(capability), BuildOptions(), tmp_path / "m.engine")
    assert built.details.compute_capability == capability
    assert built.details.runtime_version == rtx.version()
    assert built.details.flags == {"strongly_typed": True}
    assert built.path.stat().st_size > 10_000
    assert Artifact.load(built.path) == built
    found = built.details.engine
    assert found.convolutions == {"Float->Float": 2}
    # It cannot move less than: read x, write and read between the convolutions, write y.
    assert found.mb_moved >= 4 * (3 + 8 + 8 + 8) * 16 * 24 / 1e6


@pytest.mark.parametrize(("capability", "runs_as"), [("7.5", "Float->Float"), ("8.6", "Int8->Float")])
def test_int8_shows_what_it_runs_as(rtx: Backend, capability: str, runs_as: str, tmp_path: Path) -> None:
    """Turing has no int8 convolution in this SDK: that the answer differs shows the target reached it."""
    source = Artifact.load(save_quantized(tmp_path / "m.onnx", SHAPE))
    source = source.model_copy(update={"precision": "int8"})
    built = rtx.build(source, target(capability), BuildOptions(), tmp_path / "m.engine")
    assert built.details.engine.convolutions == {runs_as: 1}
    assert "FP16" in built.details.note


def test_rebuild_command_of_a_file(engine: Artifact, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    assert engine.details.rebuild == f"edgedeploy build {source} --target test --precision fp32"


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"history": (Step(name="capture"),)}, "build net --target test --precision fp32"),
        ({"details": Details(source="pkg.mod:make")}, "build pkg.mod:make --target test --precision fp32"),
        (
            {"details": Details(source="net", weights="random"), "precision": "int8"},
            "build net --target test --precision int8 --weights random --data FOLDER",
        ),
        (
            {"details": Details(source="net.int8.onnx", weights="random"), "precision": "int8"},
            "build net.int8.onnx --target test --precision int8",
        ),
    ],
)
def test_rebuild_command_names_what_the_user_named(
    rtx: Backend, changes: dict[str, object], command: str, tmp_path: Path
) -> None:
    """Not the intermediate file that was built."""
    source = Artifact.load(save_convolutions(tmp_path / "step3.onnx", SHAPE))
    source = source.model_copy(update={"model": "net", **changes})
    built = rtx.build(source, target("8.9"), BuildOptions(), tmp_path / "m.engine")
    assert built.details.rebuild == f"edgedeploy {command}"


def test_another_version_is_refused_with_the_command(rtx: Backend, engine: Artifact) -> None:
    older = engine.model_copy(update={"details": engine.details | Details(runtime_version="1.0.0")})
    with pytest.raises(EngineMismatchError, match=r"1\.0\.0") as caught:
        rtx.open(older)
    assert caught.value.hint == f"{engine.details.rebuild} -o {engine.path}"


def test_another_device_is_refused_with_the_command(
    rtx: Backend, engine: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cuda, "compute_capability", lambda: "8.6")
    with pytest.raises(EngineMismatchError, match=r"8\.9; the GPU here has 8\.6") as caught:
        rtx.open(engine)
    assert caught.value.hint == f"{engine.details.rebuild} -o {engine.path}"


def test_changed_engine_is_refused(engine: Artifact) -> None:
    engine.path.write_bytes(engine.path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="sha256 differs"):
        Artifact.load(engine.path)


def test_without_a_gpu_it_says_so(rtx: Backend, engine: Artifact) -> None:
    if not _no_gpu():
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match="no NVIDIA GPU") as caught:
        rtx.open(engine)
    assert "device" in caught.value.hint


@pytest.mark.parametrize(("capability", "message"), [("8.7", r"8\.7"), (None, "no NVIDIA GPU")])
def test_devices_that_it_does_not_build_for(
    rtx: Backend, capability: str | None, message: str, tmp_path: Path
) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))
    with pytest.raises(BuildError, match=message) as caught:
        rtx.build(source, target(capability), BuildOptions(), tmp_path / "m.engine")
    assert caught.value.hint
    assert not (tmp_path / "m.engine").exists()


def test_int32_bias_is_refused_in_its_own_words(rtx: Backend, tmp_path: Path) -> None:
    source = Artifact.load(save_int32_bias(tmp_path / "m.onnx"))
    with pytest.raises(BuildError, match=r"(?i)int32.*int8") as caught:
        rtx.build(source, target("8.6"), BuildOptions(), tmp_path / "m.engine")
    assert caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (BuildOptions(workspace_mb=1), BuildError, "workspace"),
        (BuildOptions(optimization_level=9), UsageError, "0 to 5"),
    ],
)
def test_options_reach_the_builder(
    rtx: Backend, options: BuildOptions, error: type[Exception], message: str, tmp_path: Path
) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))
    with pytest.raises(error, match=message):
        rtx.build(source, target("8.6"), options, tmp_path / "m.engine")
    assert not (tmp_path / "m.engine").exists()


def test_dynamic_sizes_need_a_range_in_order(rtx: Backend, tmp_path: Path) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", (1, 3, "height", "width")))
    with pytest.raises(UsageError, match="dynamic size"):
        rtx.build(source, target("8.6"), BuildOptions(), tmp_path / "m.engine")
    wrong = BuildOptions(opt_shapes={"x": SHAPE}, min_shapes={"x": (1, 3, 17, 24)})
    with pytest.raises(UsageError, match="in order"):
        rtx.build(source, target("8.6"), wrong, tmp_path / "m.engine")
    right = BuildOptions(opt_shapes={"x": SHAPE}, max_shapes={"x": (1, 3, 64, 64)})
    built = rtx.build(source, target("8.6"), right, tmp_path / "m.engine")
    assert built.inputs[0].shape == (1, 3, "height", "width")
    assert built.details.engine.mb_moved is None, "traffic is known at run time only"


def test_full_tensorrt_says_how_to_get_it_on_jetson() -> None:
    backend = BACKENDS.get("tensorrt")
    if not backend.why_not():
        pytest.skip("tensorrt is installed")
    assert "JetPack" in backend.install_hint()


def test_kernel_log() -> None:
    move, conv = parse_kernels(LOG.splitlines())
    assert (move.name, move.kind, move.bytes) == ("move", "kgen", 60 * 4 + 80)
    assert conv.onnx_layers == ("conv [a]", "add")
    assert [(t.name, t.shape, t.dtype) for t in conv.inputs] == [
        ("q", (1, 4, 4, 5), "Int8"),
        ("skip", (1, 8, 4, 5), "Half"),
    ]
    assert conv.bytes == 80 + 160 * 2 + 160 * 2
    summary = summarize([move, conv])
    assert summary == EngineDetails(kernels=2, mb_moved=round(1040 / 1e6, 3), convolutions={"Int8->Half": 1})
    assert parse_kernels(["nothing here"]) == []


def test_kernel_log_with_a_size_known_at_run_time() -> None:
    kernels = parse_kernels([LOG.replace("[1,3,4,5]", "[1,3,-1,-1]")])
    assert kernels[0].bytes is None
    assert summarize(kernels).mb_moved is None


@pytest.mark.gpu
def test_engine_runs_on_the_gpu(rtx: Backend, tmp_path: Path, rng: np.random.Generator) -> None:
    if _no_gpu():
        pytest.skip("there is no GPU here")
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))
    here = target(_cuda.compute_capability())
    built = rtx.build(source, here, BuildOptions(), tmp_path / "m.engine")
    feeds = {"x": rng.normal(size=SHAPE).astype(np.float32)}
    with rtx.open(built) as session, BACKENDS.get("onnxruntime").open(source, OpenOptions()) as exact:
        np.testing.assert_allclose(session(feeds)["y"], exact(feeds)["y"], rtol=1e-2, atol=1e-2)
        assert session.device_ms is not None
        assert session.device_ms > 0


def _no_gpu() -> bool:
    try:
        _cuda.driver()
    except DeviceError:
        return True
    return False
