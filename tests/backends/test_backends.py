"""One suite for every backend: what is built opens, what opens computes, what is wrong is said.

A backend whose SDK is absent is skipped with the reason; one that builds for a device elsewhere is tested up
to the engine, and on what it says when opened here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.backend import Feeds
from edgedeploy.backends import BACKENDS, Backend, BuildOptions, OpenOptions, Session, openvino
from edgedeploy.core.details import Details
from edgedeploy.core.errors import ArtifactError, BuildError, DeviceError, UnsupportedOpError, UsageError
from edgedeploy.core.parity import compare
from edgedeploy.core.spec import Artifact, Precision
from edgedeploy.core.target import Target
from tests.support.onnx_models import save_convolutions, save_quantized, save_two_inputs, save_unsupported

STATIC = (1, 3, 16, 24)
DYNAMIC: tuple[int | str, ...] = (1, 3, "height", "width")
RANGE = BuildOptions(
    min_shapes={"x": (1, 3, 8, 8)}, opt_shapes={"x": (1, 3, 16, 24)}, max_shapes={"x": (1, 3, 32, 32)}
)


@pytest.fixture(params=BACKENDS.names())
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = BACKENDS.get(request.param)
    if found.why_not():
        pytest.skip(found.why_not())
    return found


@pytest.fixture
def target(backend: Backend) -> Target:
    """A target of this backend, in every precision it has; the GPU only counts where one is compiled for."""
    return Target(
        name="test",
        title="a device for tests",
        backends=(backend.name,),
        precisions=("fp32", "bf16", "fp16", "int8"),
        default_precision="fp32",
        compute_capability="8.6" if backend.suffix == ".engine" else None,
    )


def open_here(
    backend: Backend, artifact: Artifact, shapes: dict[str, tuple[int, ...]] | None = None
) -> Session:
    try:
        return backend.open(artifact, OpenOptions(shapes=shapes or {}))
    except DeviceError as error:
        pytest.skip(f"built, but it cannot run here: {error}")


def expected(path: Path, feeds: Feeds) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes without optimizations, asked directly."""
    ort = pytest.importorskip("onnxruntime")
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def test_build_describes_itself(backend: Backend, target: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", STATIC))
    out = tmp_path / "new folder" / f"m{backend.suffix if backend.suffix != '.onnx' else '.built.onnx'}"
    built = backend.build(source, target, BuildOptions(), out)
    assert Artifact.load(out) == built, "the file tells all that the build told"
    assert (built.backend, built.target, built.path) == (backend.name, "test", out)
    assert built.kind == ("engine" if backend.suffix == ".engine" else "onnx")
    assert built.inputs == source.inputs
    assert built.outputs == source.outputs
    assert built.details.onnx_sha256 == source.digest
    assert [step.name for step in built.history] == ["build"]
    leftovers = {p.name for p in out.parent.iterdir()} - {out.name, f"{out.name}.json"}
    assert not leftovers


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_computes_what_the_graph_says(
    backend: Backend, target: Target, precision: Precision, tmp_path: Path, rng: np.random.Generator
) -> None:
    save = partial(save_quantized, levels=63) if precision == "int8" else save_convolutions
    source = Artifact.load(save(tmp_path / "m.onnx", STATIC)).model_copy(update={"precision": precision})
    built = backend.build(source, target, BuildOptions(), tmp_path / f"b{backend.suffix}")
    with open_here(backend, built) as session:
        for _ in range(3):
            feeds = {"x": rng.normal(size=STATIC).astype(np.float32)}
            outputs = session(feeds)
            assert list(outputs) == ["y"]
            if backend.name == "null":
                assert outputs["y"].shape == (1, 8, 16, 24)
                assert not outputs["y"].any()
                continue
            parity = compare(expected(source.path, feeds)["y"], outputs["y"])
            assert parity.max_rel < (1e-5 if precision == "fp32" else 1e-2), parity


def test_names_and_order_of_inputs_and_outputs(
    backend: Backend, target: Target, tmp_path: Path, rng: np.random.Generator
) -> None:
    source = Artifact.load(save_two_inputs(tmp_path / "m.onnx"))
    built = backend.build(source, target, BuildOptions(), tmp_path / f"b{backend.suffix}")
    a, b = rng.normal(size=(2, 2, 3)).astype(np.float32)
    with open_here(backend, built) as session:
        outputs = session({"a": a, "b": b})
    assert list(outputs) == ["sum", "product"]
    if backend.name != "null":
        np.testing.assert_allclose(outputs["sum"], a + b, rtol=1e-6)
        np.testing.assert_allclose(outputs["product"], a * b, rtol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (20, 31)])
def test_dynamic_model_is_specialized(
    backend: Backend, target: Target, size: tuple[int, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", DYNAMIC))
    built = backend.build(source, target, RANGE, tmp_path / f"b{backend.suffix}")
    shape = (1, 3, *size)
    with open_here(backend, built, {"x": shape}) as session:
        assert session.inputs[0].shape == shape
        feeds = {"x": rng.normal(size=shape).astype(np.float32)}
        y = session(feeds)["y"]
        assert y.shape == (1, 8, *size)
        if backend.name != "null":
            assert compare(expected(source.path, feeds)["y"], y).max_rel < 1e-5
        other = {"x": np.zeros((1, 3, size[0] + 1, size[1]), np.float32)}
        with pytest.raises(UsageError, match="has shape"):
            session(other)


def test_dynamic_model_needs_a_size(backend: Backend, target: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", DYNAMIC))
    built = backend.build(source, target, RANGE, tmp_path / f"b{backend.suffix}")
    with pytest.raises((UsageError, DeviceError)) as caught:
        backend.open(built)
    assert caught.value.hint


@pytest.fixture
def session(backend: Backend, target: Target, tmp_path: Path) -> Iterator[Session]:
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", STATIC))
    built = backend.build(source, target, BuildOptions(), tmp_path / f"b{backend.suffix}")
    with open_here(backend, built) as opened:
        yield opened


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros(STATIC)}, "dtype float64"),
        ({"x": np.zeros((1, 3, 16, 25), np.float32)}, r"shape \[1, 3, 16, 25\]"),
        ({"x": np.zeros((3, 16, 24), np.float32)}, "shape"),
        ({"x": np.zeros(STATIC, np.float32), "z": np.zeros(1)}, "no input called z"),
    ],
)
def test_wrong_feeds_are_refused(session: Session, feeds: Feeds, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        session(feeds)


def test_strided_feed_is_read_rightly(session: Session, rng: np.random.Generator) -> None:
    """A view of an image, every second pixel, is what cropping and layout changes give."""
    wide = rng.normal(size=(1, 3, 16, 48)).astype(np.float32)
    view = wide[..., ::2]
    y = session({"x": view})["y"].copy()
    np.testing.assert_array_equal(y, session({"x": view.copy()})["y"])


def test_unsupported_operator_is_named(backend: Backend, target: Target, tmp_path: Path) -> None:
    if backend.name == "null":
        pytest.skip("null runs everything")
    source = Artifact.load(save_unsupported(tmp_path / "m.onnx"))
    out = tmp_path / f"b{backend.suffix}"
    with pytest.raises(UnsupportedOpError, match=r"Frobnicate \(node 'odd'\)") as caught:
        backend.build(source, target, BuildOptions(), out)
    assert (caught.value.op, caught.value.node) == ("Frobnicate", "odd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"], "nothing half-written"


def test_failed_build_leaves_the_old_file(backend: Backend, target: Target, tmp_path: Path) -> None:
    if backend.name == "null":
        pytest.skip("null runs everything")
    out = tmp_path / f"b{backend.suffix}"
    backend.build(Artifact.load(save_two_inputs(tmp_path / "m.onnx")), target, BuildOptions(), out)
    before = out.read_bytes()
    with pytest.raises(BuildError):
        backend.build(Artifact.load(save_unsupported(tmp_path / "n.onnx")), target, BuildOptions(), out)
    assert out.read_bytes() == before
    assert Artifact.load(out).backend == backend.name


def test_precision_that_target_or_backend_lacks(backend: Backend, target: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_two_inputs(tmp_path / "m.onnx")).model_copy(update={"precision": "int8"})
    without = target.model_copy(update={"precisions": ("fp32",)})
    with pytest.raises(UsageError, match="does not run int8"):
        backend.build(source, without, BuildOptions(), tmp_path / "b")
    if "bf16" not in backend.precisions:
        wanted = source.model_copy(update={"precision": "bf16"})
        with pytest.raises(BuildError, match="does not run bf16"):
            backend.build(wanted, target, BuildOptions(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_engine_is_not_built_again(backend: Backend, target: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_two_inputs(tmp_path / "m.onnx")).model_copy(update={"kind": "engine"})
    with pytest.raises(ArtifactError, match="already built"):
        backend.build(source, target, BuildOptions(), tmp_path / "b")


def test_layers_are_timed_where_offered(backend: Backend, target: Target, tmp_path: Path) -> None:
    if backend.name not in {"onnxruntime", "openvino"}:
        pytest.skip("it does not time layers")
    source = Artifact.load(save_convolutions(tmp_path / "m.onnx", STATIC))
    with backend.open(source, OpenOptions(profile=True)) as session:
        session({"x": np.zeros(STATIC, np.float32)})
        layers = session.layers()
    assert len(layers) >= 2
    assert all(layer.milliseconds >= 0 and layer.name and layer.kind for layer in layers)
    assert any("conv" in (layer.name + layer.kind).lower() for layer in layers)
    with backend.open(source) as session:
        session({"x": np.zeros(STATIC, np.float32)})
        assert session.layers() == []


def test_details_are_json(backend: Backend, target: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_two_inputs(tmp_path / "m.onnx"))
    built = backend.build(source, target, BuildOptions(), tmp_path / f"b{backend.suffix}")
    noted = built.details.model_dump(mode="json")
    assert Details.model_validate(json.loads(json.dumps(noted))) == built.details


@pytest.mark.parametrize("exact", [False, True])
def test_float_layers_of_int8_are_float32_where_that_is_asked(
    exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    backend = openvino.OpenVino()
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(backend, "_faster_hint", lambda *_: "bf16")  # as if that had been measured
    source = Artifact.load(save_quantized(tmp_path / "m.onnx", STATIC))
    source = source.model_copy(update={"precision": "int8"})
    target = Target(
        name="t", title="t", backends=("openvino",), precisions=("int8",), default_precision="int8"
    )
    built = backend.build(source, target, BuildOptions(exact_float=exact), tmp_path / "b.onnx")
    assert built.details.own(openvino.HINT_KEY) == ("f32" if exact else "bf16")
    assert backend.rounds_float
