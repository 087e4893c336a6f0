"""The contest of runtimes: the fastest that computes the right thing, and what became of the others."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edgedeploy.backend import Feeds, Outputs
from edgedeploy.backends import (
    BACKENDS,
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
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.core.target import Target
from edgedeploy.runtime import openvino_rehearsal as _openvino_rehearsal
from edgedeploy.runtime.select import open_artifact
from tests.support.backend_contests import considered, cpu_target, fastest
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
    return cpu_target()


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


@pytest.mark.parametrize(("slow", "fast"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_the_faster_wins_whatever_its_place(
    cpu: Target, model: Artifact, slow: str, fast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, slow, seconds=0.05)
    built = fastest(model, cpu, tmp_path / "out")
    assert built.backend == fast
    assert Artifact.load(built.path) == built
    assert considered(built)[fast]["verdict"] == "kept"
    assert f"times as long as {fast}" in considered(built)[slow]["verdict"]
    assert all(entry["milliseconds"] > 0 and entry["max_rel"] < 1e-3 for entry in considered(built).values())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.cpu.onnx"], "no leftovers"


def test_wrong_results_lose_however_fast(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, "openvino", noise=0.5)
    alter(monkeypatch, "onnxruntime", seconds=0.05)
    built = fastest(model, cpu, tmp_path)
    assert built.backend == "onnxruntime"
    assert "wrong results" in considered(built)["openvino"]["verdict"]


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
            fastest(source, cpu, tmp_path)
        return
    built = fastest(source, cpu, tmp_path)
    assert max(entry["max_rel"] for entry in considered(built).values()) > 1e-3


def test_a_quantized_file_of_others_is_held_to_what_int8_can(
    cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file does not tell its precision and counts as fp32, yet runtimes round it differently."""
    foreign = Artifact.load(save_quantized(tmp_path / "m.onnx", SHAPE))
    assert foreign.precision == "fp32"
    alter(monkeypatch, "openvino", noise=0.02)
    alter(monkeypatch, "onnxruntime", noise=0.02)
    entries = considered(fastest(foreign, cpu, tmp_path))
    assert all(entry["max_rel"] > 1e-3 and "milliseconds" in entry for entry in entries.values())


@pytest.mark.parametrize(("height", "right"), [(SHAPE[2], True), (SHAPE[2] + 1, False)])
def test_runtimes_are_compared_on_real_inputs_of_their_shape(
    height: int, right: bool, cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that outweighs what comes of noise is nothing beside what comes of large inputs."""
    for name in cpu.backends:
        alter(monkeypatch, name, noise=0.5)
    real = [{model.inputs[0].name: np.full((*SHAPE[:2], height, SHAPE[3]), 1e6, np.float32)}]
    if right:
        fastest(model, cpu, tmp_path, inputs=real)
        return
    with pytest.raises(ParityError):
        fastest(model, cpu, tmp_path, inputs=real)


def test_nobody_right_is_an_error(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter(monkeypatch, "openvino", noise=0.5)
    alter(monkeypatch, "onnxruntime", noise=0.5)
    with pytest.raises(ParityError, match="SQNR") as caught:
        fastest(model, cpu, tmp_path)
    assert str(tmp_path) not in str(caught.value), "the file may be an intermediate that nobody named"
    assert caught.value.exit_code == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_precision_only_one_backend_has(cpu: Target, model: Artifact, tmp_path: Path) -> None:
    core = pytest.importorskip("openvino").Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    wanted = model.model_copy(update={"precision": "bf16"})
    built = fastest(wanted, cpu, tmp_path)
    assert built.backend == "openvino"
    assert "does not run bf16" in considered(built)["onnxruntime"]["verdict"]
    assert 20 < considered(built)["openvino"]["sqnr_db"] < 80, "bfloat16 was really computed"


def test_unsupported_operator_is_told_for_the_target(cpu: Target, tmp_path: Path) -> None:
    source = Artifact.load(save_unsupported(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedOpError, match="Frobnicate"):
        fastest(source, cpu, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_nothing_installed_is_told(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in cpu.backends:
        monkeypatch.setattr(BACKENDS.get(name), "why_not", lambda: "it is not installed")
    with pytest.raises(MissingDependencyError) as caught:
        fastest(model, cpu, tmp_path)
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
    built = fastest(model, target, tmp_path)
    assert built.backend == "tensorrt-rtx"
    assert Artifact.load(tmp_path / "m.rtx.engine") == built
    assert "not measured" in considered(built)["tensorrt-rtx"]["verdict"]
    assert ".contest-" not in built.details.rebuild, "the folder it was built in is gone"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.rtx.engine", "m.rtx.engine.json"]
    with pytest.raises(ArtifactError, match="engine of tensorrt-rtx"):
        open_artifact(built, backend="openvino")


@pytest.mark.parametrize("name", ["m", "q"])
def test_hint_is_not_the_precision_at_hand(
    name: str, cpu: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_quantized if name == "q" else save_convolutions
    for backend in cpu.backends:
        alter(monkeypatch, backend, noise=50.0)
    with pytest.raises(ParityError) as caught:
        fastest(Artifact.load(save(tmp_path / "m.onnx", SHAPE)), cpu, tmp_path)
    assert "--precision fp32" not in caught.value.hint


def test_unwritable_output_is_told(cpu: Target, model: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        BACKENDS.get("onnxruntime").build(model, cpu, BuildOptions(), tmp_path / "file" / "b.onnx")
    with pytest.raises(OutputError):
        fastest(model, cpu, tmp_path / "file")


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
    built = fastest(foreign, cpu, tmp_path)
    assert built.backend == "onnxruntime"
    assert "crashes" in considered(built)["openvino"]["verdict"]
    ours = foreign.model_copy(update={"history": (Step(name="quantize"),)})
    with BACKENDS.get("openvino").open(ours) as session:  # not rehearsed
        assert session.inputs[0].shape == SHAPE


@pytest.mark.parametrize("stage", ["_build", "_open", "_run"])
def test_a_fault_of_one_runtime_does_not_end_the_contest(
    stage: str, cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of no known kind, wherever it is raised, is the verdict of that candidate alone."""

    def fails(*_: object) -> None:
        raise ValueError("operands could not be broadcast\nsecond line")

    backend = BACKENDS.get("openvino")
    if stage == "_run":
        with backend.open(model) as session:
            monkeypatch.setattr(type(session), "_run", fails)
    else:
        monkeypatch.setattr(backend, stage, fails)
    built = fastest(model, cpu, tmp_path)
    assert built.backend == "onnxruntime"
    assert considered(built)["openvino"]["verdict"] == "ValueError: operands could not be broadcast"
    assert {name: entry["status"] for name, entry in considered(built).items()} == {
        "openvino": "refused",
        "onnxruntime": "ships",
    }


def test_a_runtime_that_fails_in_the_comparison_loses(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran once, and raises at a later run; the reference, which is not optimized, goes on."""
    alter(monkeypatch, "openvino")
    runs = iter([True])

    def once(session: Altered, feeds: Feeds) -> Outputs:
        next(runs)
        return session.inner(feeds)

    monkeypatch.setattr(Altered, "_run", once)
    built = fastest(model, cpu, tmp_path)
    assert built.backend == "onnxruntime"
    assert considered(built)["openvino"]["verdict"].startswith("StopIteration")


def test_where_nothing_is_built_the_fault_is_raised_as_it_is(
    cpu: Target, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("broken")

    for name in cpu.backends:
        monkeypatch.setattr(BACKENDS.get(name), "_build", fails)
    with pytest.raises(ValueError, match="broken"):
        fastest(model, cpu, tmp_path)
