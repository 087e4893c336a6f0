"""The backend that opens an artifact, and whether it computes what the model says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedeploy.backends import (
    BACKENDS,
    Backend,
    BuildOptions,
)
from edgedeploy.core.errors import (
    ArtifactError,
    BuildError,
    ParityError,
    UnsupportedOpError,
)
from edgedeploy.core.onnx_header import external_files
from edgedeploy.core.parity import Parity
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target
from edgedeploy.runtime.compare import Difference, agrees, difference
from edgedeploy.runtime.select import backend_for, open_artifact
from tests.support.backend_contests import cpu_target
from tests.support.onnx_models import (
    save_convolutions,
)

SHAPE = (1, 3, 16, 24)


@pytest.fixture
def cpu() -> Target:
    return cpu_target()


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))


def test_artifact_opens_in_the_backend_that_built_it(cpu: Target, model: Artifact, tmp_path: Path) -> None:
    built = BACKENDS.get("onnxruntime").build(model, cpu, BuildOptions(), tmp_path / "b.onnx")
    assert backend_for(Artifact.load(built.path)).name == "onnxruntime"
    assert backend_for(built, "openvino").name == "openvino"
    assert backend_for(model).name == "openvino", "a plain file takes the faster runtime"
    with open_artifact(model) as session:
        assert session({"x": np.zeros(SHAPE, np.float32)})["y"].shape == (1, 8, 16, 24)


@pytest.mark.parametrize(
    ("precision", "parity", "right"),
    [
        ("fp32", Parity(0, 9e-4, 40.0, 1.0), True),
        ("fp32", Parity(0, 2e-3, 90.0, 1.0), False),
        ("int8", Parity(0, 0.2, 21.0, 1.0), True),
        ("int8", Parity(0, 0.0, 19.0, 1.0), False),
        ("bf16", Parity(0, 0.2, 26.0, 1.0), True),
        ("fp16", Parity(0, 0.2, 26.0, 1.0), False),
    ],
)
def test_what_counts_as_the_same(precision: str, parity: Parity, right: bool) -> None:
    assert agrees(Difference(parity), precision) is right


def test_the_grant_has_a_limit_and_is_for_fp32() -> None:
    chaotic = Difference(Parity(1, 1.0, 0.0, 0.0), 1.0, 1.0)
    assert agrees(Difference(Parity(0, 0.09, 9.0, 1.0)), "fp32", chaotic)
    assert not agrees(Difference(Parity(0, 0.11, 9.0, 1.0)), "fp32", chaotic)
    assert not agrees(Difference(unequal=0.06, moved=0.06), "fp32", chaotic)
    assert not agrees(Difference(Parity(0, 0.09, 9.0, 1.0)), "int8", chaotic)


@pytest.mark.parametrize(
    ("dtype", "precision", "flipped", "step", "right"),
    [
        ("int64", "int8", 0.08, 7, True),  # of a class map, SQNR would be some 10 dB
        ("int64", "int8", 0.15, 1, False),
        ("int64", "fp32", 0.0005, 7, True),
        ("int64", "fp32", 0.01, 1, False),
        ("uint8", "fp16", 0.9, 1, True),  # an image whose last bit rounds otherwise
        ("uint8", "int8", 0.9, 40, False),
        ("bool", "int8", 0.08, 1, True),
        ("bool", "int8", 0.5, 1, False),
    ],
)
def test_class_maps_and_images_are_judged_by_what_moved(
    dtype: str, precision: str, flipped: float, step: int, right: bool
) -> None:
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 2 if dtype == "bool" else 19 if dtype == "int64" else 200, 100_000)
    expected[0] = 200 if dtype == "uint8" else expected[0]
    chosen = rng.permutation(expected.size) < flipped * expected.size
    got = np.where(chosen, (1 - expected) if dtype == "bool" else expected + step, expected)
    found = difference({"y": expected.astype(dtype)}, {"y": got.astype(dtype)})
    assert found.unequal == pytest.approx(flipped)
    assert agrees(found, precision) is right


def test_an_output_of_integers_does_not_excuse_the_others() -> None:
    x, y = np.ones(4, np.float32), np.arange(4)
    assert not agrees(difference({"x": x, "y": y}, {"x": x * 2, "y": y}), "int8")
    assert not agrees(difference({"x": x, "y": y}, {"x": x, "y": y + 1}), "int8")
    with pytest.raises(ParityError, match="missing"):
        difference({"y": y}, {"x": y})


def test_weights_in_another_file_stay_beside(cpu: Target, tmp_path: Path) -> None:
    path = save_convolutions(tmp_path / "m.onnx", SHAPE)
    proto = onnx.load(str(path))
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert external_files(path) == ["weights.bin"]
    source = Artifact.load(path)
    backend = BACKENDS.get("onnxruntime")
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        backend.build(source, cpu, BuildOptions(), tmp_path / "elsewhere" / "b.onnx")
    with backend.open(backend.build(source, cpu, BuildOptions(), tmp_path / "b.onnx")) as session:
        assert session({"x": np.ones(SHAPE, np.float32)})["y"].any()


def test_listing_backends_imports_no_sdk() -> None:
    code = (
        "import sys; from edgedeploy.backends import BACKENDS; "
        "[BACKENDS.get(name).why_not() for name in BACKENDS.names()]; "
        "sdks = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'cv2'}; "
        "assert not sdks & set(sys.modules), sdks & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_backend_contract_is_complete() -> None:
    for name in BACKENDS.names():
        backend = BACKENDS.get(name)
        assert isinstance(backend, Backend)
        assert backend.name == name
        assert backend.precisions
        if backend.package:
            assert backend.extra.startswith("edgedeploy["), "a user has to know what to install"
    assert issubclass(UnsupportedOpError, BuildError)
