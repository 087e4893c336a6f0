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
    UnsupportedOpError,
)
from edgedeploy.core.onnx_header import external_files
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target
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
