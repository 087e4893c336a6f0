"""Artifacts describe themselves, and damaged ones are refused in one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import pytest

from edgedeploy.core.details import Details
from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.files import sha256_file
from edgedeploy.core.onnx_header import read_onnx_header
from edgedeploy.core.spec import METADATA_KEY, Artifact, Step, TaskSpec, TensorSpec, sidecar_path, with_shapes

MODEL = """
<ir_version: 8, opset_import: ["" : 19]>
net (float[1, 3, H, W] image, float[2] unused) => (float[1, 3, H, W] y, int64[4] size)
<float[1] two = {2.0}>
{ y = Mul(image, two)
  size = Shape(image) }
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def engine(path: Path) -> Artifact:
    """A complete engine artifact written to disk."""
    path.write_bytes(b"engine")
    artifact = Artifact(
        path=path,
        digest=sha256_file(path),
        kind="engine",
        model="net",
        inputs=(TensorSpec(name="x", dtype="float16", shape=(1, 3, 8, 8), layout="NCHW"),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(1, 3, 8, 8)),),
        task=TaskSpec(name="segmentation", options={"stride": 8}),
        labels=("road", "sky"),
        precision="fp16",
        backend="tensorrt-rtx",
        history=(Step(name="to-fp16", hits=3, milliseconds=1.5, error=1e-3),),
        details=Details(compute_capability="8.9"),
    )
    artifact.save_sidecar()
    return artifact


def label(path: Path, text: str) -> None:
    """Write a text as the metadata of an ONNX file."""
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {METADATA_KEY: text})
    onnx.save(proto, path)


def test_a_foreign_onnx_is_known_by_its_graph(model: Path) -> None:
    artifact = Artifact.load(model)
    assert artifact.kind == "onnx"
    assert artifact.model == "net"
    assert [str(spec) for spec in artifact.inputs] == ["image: float32[1, 3, H, W]", "unused: float32[2]"]
    assert [str(spec) for spec in artifact.outputs] == ["y: float32[1, 3, H, W]", "size: int64[4]"]
    assert artifact.digest == sha256_file(model)


def test_own_metadata_comes_back_whole(model: Path) -> None:
    artifact = Artifact.load(model).with_step(Step(name="fold-batchnorm", hits=2), labels=("a", "b"))
    proto = onnx.load(model)
    onnx.helper.set_model_props(proto, {METADATA_KEY: artifact.to_json(), "author": "somebody"})
    onnx.save(proto, model)
    loaded = Artifact.load(model)
    assert loaded == artifact.model_copy(update={"digest": sha256_file(model)})
    assert read_onnx_header(model).metadata["author"] == "somebody"


def test_header_agrees_with_the_onnx_package(shared: Path) -> None:
    for path in sorted((shared / "data/models").glob("*.onnx")):
        header, proto = read_onnx_header(path), onnx.load(path)
        initializers = {tensor.name for tensor in proto.graph.initializer}
        assert [i.name for i in header.inputs] == [
            i.name for i in proto.graph.input if i.name not in initializers
        ]
        assert [o.name for o in header.outputs] == [o.name for o in proto.graph.output]
        assert header.nodes == len(proto.graph.node)
        assert header.opset == next(o.version for o in proto.opset_import if o.domain == "")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(model: Path, keep: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ArtifactError) as caught:
        Artifact.load(model)
    assert caught.value.hint


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n" + bytes(64), b"hello world\n" * 9, bytes(100), b"\xff" * 99]
)
def test_files_of_another_kind_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"x\.onnx is not a whole ONNX file"):
        Artifact.load(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        Artifact.load(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match="is a folder"):
        Artifact.load(tmp_path)


def test_damaged_metadata_is_refused(model: Path) -> None:
    proto = onnx.load(model)
    for text in ("{", "[]", '{"schema": 1}', '{"schema": 99}'):
        onnx.helper.set_model_props(proto, {METADATA_KEY: text})
        onnx.save(proto, model)
        with pytest.raises(ArtifactError):
            Artifact.load(model)


def test_a_negative_size_in_metadata_is_refused(model: Path) -> None:
    document = json.loads(Artifact.load(model).to_json())
    document["inputs"][1]["shape"] = [-8]
    label(model, json.dumps(document))
    with pytest.raises(ArtifactError, match="damaged edgedeploy metadata"):
        Artifact.load(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": ["a"]}, "mean is not a list of numbers"),
        ({"mean": [1.0, None]}, "mean is not"),
        ({"std": [1.0, float("nan")]}, "std is not"),
        ({"std": [[1.0]]}, "std is not"),
        ({"std": [0, 0, 0]}, "std has a zero"),
    ],
)
def test_a_normalization_that_cannot_be_is_refused(model: Path, options: object, message: str) -> None:
    document = json.loads(Artifact.load(model).to_json())
    document["task"] = {"name": "segmentation", "options": options}
    label(model, json.dumps(document))
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(model)


@pytest.mark.parametrize(
    ("side", "change"),
    [
        ("inputs", {"name": "z"}),
        ("inputs", {"dtype": "object"}),
        ("inputs", {"shape": [1, 3, "H"]}),
        ("inputs", {"shape": [1, 4, "H", "W"]}),
        ("outputs", {"name": "z"}),
        ("outputs", {"dtype": "uint8"}),
    ],
)
def test_metadata_that_contradicts_the_graph_is_refused(model: Path, side: str, change: object) -> None:
    document = json.loads(Artifact.load(model).to_json())
    document[side][0] |= change
    label(model, json.dumps(document))
    with pytest.raises(ArtifactError, match="its metadata does not fit its graph") as caught:
        Artifact.load(model)
    assert "export" in caught.value.hint


def test_metadata_of_an_onnx_file_is_not_that_of_an_engine_or_of_no_inputs(model: Path) -> None:
    document = json.loads(Artifact.load(model).to_json())
    for change in ({"kind": "engine"}, {"inputs": []}):
        label(model, json.dumps({**document, **change}))
        with pytest.raises(ArtifactError, match="does not fit its graph"):
            Artifact.load(model)


def test_metadata_may_know_more_than_the_graph(model: Path) -> None:
    document = json.loads(Artifact.load(model).to_json())
    document["inputs"][0]["shape"] = [1, 3, 64, 64]
    label(model, json.dumps(document))
    assert Artifact.load(model).inputs[0].shape == (1, 3, 64, 64)


def test_metadata_too_deep_to_parse_is_refused(model: Path, tmp_path: Path) -> None:
    label(model, "[" * 100_000)
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(model)
    path = engine(tmp_path / "net.engine").path
    sidecar_path(path).write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(path)


def test_engines_round_trip_through_their_sidecar(tmp_path: Path) -> None:
    artifact = engine(tmp_path / "net.engine")
    assert Artifact.load(artifact.path) == artifact


@pytest.mark.parametrize("in_place", [True, False])
def test_an_engine_is_saved_with_other_fields(in_place: bool, tmp_path: Path) -> None:
    artifact = engine(tmp_path / "net.engine")
    out = artifact.path if in_place else tmp_path / "out" / "b.engine"
    saved = artifact.saved_at(out, model="other")
    assert Artifact.load(out) == saved
    assert (saved.model, saved.digest) == ("other", artifact.digest)
    assert out.read_bytes() == artifact.path.read_bytes()
    assert in_place or Artifact.load(artifact.path) == artifact


def test_an_engine_without_or_with_a_wrong_sidecar_is_refused(tmp_path: Path) -> None:
    path = engine(tmp_path / "net.engine").path
    path.write_bytes(b"another engine")
    with pytest.raises(ArtifactError, match="sha256 differs"):
        Artifact.load(path)
    sidecar_path(path).write_text(json.dumps({"schema": 1, "sha256": "0"}))
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(path)
    sidecar_path(path).unlink()
    with pytest.raises(ArtifactError, match="no sidecar"):
        Artifact.load(path)


def test_with_shapes_changes_named_specs_alone() -> None:
    x, y = (TensorSpec(name=name, dtype="float32", shape=(1, "n")) for name in "xy")
    assert [spec.shape for spec in with_shapes((x, y), {"x": [1, 8], "z": [3]})] == [(1, 8), (1, "n")]
    assert x.shape == (1, "n")
