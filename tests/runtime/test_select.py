"""The choice of a backend, and the labels that make a built .onnx tell where it belongs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgedeploy.backend import Feeds, Outputs
from edgedeploy.backends import (
    BACKENDS,
    Backend,
    BuildOptions,
    OpenOptions,
    Session,
)
from edgedeploy.core.errors import (
    ArtifactError,
    BuildError,
    MissingDependencyError,
    OutputError,
    ParityError,
    UnsupportedOpError,
)
from edgedeploy.core.onnx_header import external_files
from edgedeploy.core.parity import Parity
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.core.target import Target
from edgedeploy.runtime import openvino_rehearsal as _openvino_rehearsal
from edgedeploy.runtime.contest import Difference, agrees, difference
from edgedeploy.runtime.select import backend_for, build_fastest, open_artifact
from tests.support.onnx_models import (
    save_convolutions,
    save_quantized,
    save_sensitive,
    save_unsupported,
)

SHAPE = (1, 3, 16, 24)


class Altered(Session):
    """Another session, slower by `seconds`, with `noise` added to its outputs."""

    def __init__(self, inner: Session, seconds: float, noise: float) -> None:
        super().__init__(inner.inputs, inner.outputs)
        self.inner, self.seconds, self.noise = inner, seconds, noise

    def _run(self, feeds: Feeds) -> Outputs:
        time.sleep(self.seconds)
        return {name: value + np.float32(self.noise) for name, value in self.inner(feeds).items()}


@pytest.fixture
def cpu() -> Target:
    for name in ("onnxruntime", "openvino"):
        if BACKENDS.get(name).why_not():
            pytest.skip(BACKENDS.get(name).why_not())
    return Target(
        name="cpu",
        title="CPU",
        backends=("openvino", "onnxruntime"),
        precisions=("fp32", "bf16", "int8"),
        default_precision="fp32",
    )


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return Artifact.load(save_convolutions(tmp_path / "m.onnx", SHAPE))


def alter(monkeypatch: pytest.MonkeyPatch, name: str, seconds: float = 0.0, noise: float = 0.0) -> None:
    """Let a backend be slower or wrong in the contest; the unoptimized reference stays right."""
    backend = BACKENDS.get(name)
    original = backend._open

    def opened(artifact: Artifact, options: OpenOptions) -> Session:
        session = original(artifact, options)
        return Altered(session, seconds, noise) if options.optimize else session

    monkeypatch.setattr(backend, "_open", opened)


def verdicts(built: Artifact) -> dict[str, dict[str, Any]]:
    return {entry.backend: entry.model_dump() for entry in built.details.considered}


@pytest.mark.parametrize(("slow", "fast"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_the_faster_wins_whatever_its_place(
    cpu: Target, model: Artifact, slow: str, fast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, slow, seconds=0.05)
    built = build_fastest(model, cpu, None, tmp_path / "out" / "b.onnx")
    assert built.backend == fast
    assert Artifact.load(built.path) == built
    assert verdicts(built)[fast]["verdict"] == "kept"
    assert f"times as long as {fast}" in verdicts(built)[slow]["verdict"]
    assert all(entry["milliseconds"] > 0 and entry["max_rel"] < 1e-3 for entry in verdicts(built).values())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.onnx"], "no leftovers"


def test_wrong_results_lose_however_fast(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, "openvino", noise=0.5)
    alter(monkeypatch, "onnxruntime", seconds=0.05)
    built = build_fastest(model, cpu, None, tmp_path / "b.onnx")
    assert built.backend == "onnxruntime"
    assert "wrong results" in verdicts(built)["openvino"]["verdict"]


@pytest.mark.parametrize(("noise", "right"), [(5e-3, True), (0.2, False)])
def test_a_network_that_amplifies_rounding_is_granted_some(
    noise: float, right: bool, cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another order of the sums moves its output by more than 1e-3; a wrong runtime is still refused."""
    source = Artifact.load(save_sensitive(tmp_path / "m.onnx", SHAPE))
    for name in cpu.backends:
        alter(monkeypatch, name, noise=noise)
    if not right:
        with pytest.raises(ParityError):
            build_fastest(source, cpu, None, tmp_path / "b.onnx")
        return
    built = build_fastest(source, cpu, None, tmp_path / "b.onnx")
    assert max(entry["max_rel"] for entry in verdicts(built).values()) > 1e-3


def test_a_quantized_file_of_others_is_held_to_what_int8_can(
    cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file does not tell its precision and counts as fp32, yet runtimes round it differently."""
    foreign = Artifact.load(save_quantized(tmp_path / "m.onnx", SHAPE))
    assert foreign.precision == "fp32"
    alter(monkeypatch, "openvino", noise=0.02)
    alter(monkeypatch, "onnxruntime", noise=0.02)
    considered = verdicts(build_fastest(foreign, cpu, None, tmp_path / "b.onnx"))
    assert all(entry["max_rel"] > 1e-3 and "milliseconds" in entry for entry in considered.values())


@pytest.mark.parametrize(("height", "right"), [(SHAPE[2], True), (SHAPE[2] + 1, False)])
def test_runtimes_are_compared_on_real_inputs_of_their_shape(
    height: int, right: bool, cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that outweighs what comes of noise is nothing beside what comes of large inputs."""
    for name in cpu.backends:
        alter(monkeypatch, name, noise=0.5)
    real = [{model.inputs[0].name: np.full((*SHAPE[:2], height, SHAPE[3]), 1e6, np.float32)}]
    if right:
        build_fastest(model, cpu, None, tmp_path / "b.onnx", inputs=real)
        return
    with pytest.raises(ParityError):
        build_fastest(model, cpu, None, tmp_path / "b.onnx", inputs=real)


def test_nobody_right_is_an_error(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, "openvino", noise=0.5)
    alter(monkeypatch, "onnxruntime", noise=0.5)
    with pytest.raises(ParityError, match="SQNR") as caught:
        build_fastest(model, cpu, None, tmp_path / "b.onnx")
    assert str(tmp_path) not in str(caught.value), "the file may be an intermediate that nobody named"
    assert caught.value.exit_code == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_precision_only_one_backend_has(cpu: Target, model: Artifact, tmp_path: Path) -> None:
    core = pytest.importorskip("openvino").Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    wanted = model.model_copy(update={"precision": "bf16"})
    built = build_fastest(wanted, cpu, None, tmp_path / "b.onnx")
    assert built.backend == "openvino"
    assert "does not run bf16" in verdicts(built)["onnxruntime"]["verdict"]
    assert 20 < verdicts(built)["openvino"]["sqnr_db"] < 80, "bfloat16 was really computed"


def test_unsupported_operator_is_told_for_the_target(cpu: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_unsupported(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedOpError, match="Frobnicate"):
        build_fastest(source, cpu, None, tmp_path / "b.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_nothing_installed_is_told(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cpu.backends:
        monkeypatch.setattr(BACKENDS.get(name), "why_not", lambda: "it is not installed")
    with pytest.raises(MissingDependencyError) as caught:
        build_fastest(model, cpu, None, tmp_path / "b.onnx")
    assert "edgedeploy[cpu]" in caught.value.hint
    with pytest.raises(MissingDependencyError):
        open_artifact(model)


def test_engine_for_elsewhere_is_kept_unmeasured(model: Artifact, tmp_path: Path) -> None:
    if BACKENDS.get("tensorrt-rtx").why_not() or not BACKENDS.get("tensorrt").why_not():
        pytest.skip("needs tensorrt-rtx and no GPU")
    target = Target(
        name="rtx",
        title="RTX",
        backends=("tensorrt", "tensorrt-rtx"),
        precisions=("fp32",),
        default_precision="fp32",
        compute_capability="8.9",
    )
    built = build_fastest(model, target, None, tmp_path / "b.engine")
    assert built.backend == "tensorrt-rtx"
    assert Artifact.load(tmp_path / "b.engine") == built
    assert "not measured" in verdicts(built)["tensorrt-rtx"]["verdict"]
    assert ".build-" not in built.details.rebuild, "the folder it was built in is gone"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.engine", "b.engine.json", "m.onnx"]
    with pytest.raises(ArtifactError, match="engine of tensorrt-rtx"):
        open_artifact(built, backend="openvino")


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


@pytest.mark.parametrize("name", ["m", "q"])
def test_hint_is_not_the_precision_at_hand(
    name: str, cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_quantized if name == "q" else save_convolutions
    for backend in cpu.backends:
        alter(monkeypatch, backend, noise=50.0)
    with pytest.raises(ParityError) as caught:
        build_fastest(Artifact.load(save(tmp_path / "m.onnx", SHAPE)), cpu, None, tmp_path / "b.onnx")
    assert "--precision fp32" not in caught.value.hint


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


def test_unwritable_output_is_told(cpu: Target, model: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        BACKENDS.get("onnxruntime").build(model, cpu, BuildOptions(), tmp_path / "file" / "b.onnx")
    with pytest.raises(OutputError):
        build_fastest(model, cpu, None, tmp_path / "file" / "b.onnx")


CRASH = ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")


def test_crash_of_openvino_does_not_end_the_build(
    cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that really dies of a segmentation fault stands in for OpenVINO on a model that crashes it."""
    foreign = Artifact.load(save_quantized(tmp_path / "m.onnx", SHAPE)).model_copy(
        update={"precision": "int8"}
    )
    BACKENDS.get("openvino").build(foreign, cpu, BuildOptions(), tmp_path / "harmless.onnx")
    monkeypatch.setattr(_openvino_rehearsal, "COMMAND", CRASH)
    with pytest.raises(BuildError, match="openvino crashes") as caught:
        BACKENDS.get("openvino").open(foreign)
    assert "onnxruntime" in caught.value.hint
    built = build_fastest(foreign, cpu, None, tmp_path / "b.onnx")
    assert built.backend == "onnxruntime"
    assert "crashes" in verdicts(built)["openvino"]["verdict"]
    ours = foreign.model_copy(update={"history": (Step(name="quantize"),)})
    with BACKENDS.get("openvino").open(ours) as session:  # not rehearsed
        assert session.inputs[0].shape == SHAPE


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
