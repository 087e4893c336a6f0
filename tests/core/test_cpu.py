"""Classes of CPUs: read from the machine, claimed by the environment, and what they decide."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.calibration import load_rules
from edgedeploy.core import cpu, target
from edgedeploy.core.errors import DeviceError, UnknownNameError
from edgedeploy.core.target import cpu_classes, load_target

ZEN3 = {"sse4_1", "avx2"}
SKYLAKE = {*ZEN3, "avx512f"}
ICELAKE = {*SKYLAKE, "avx512_vnni"}
ZEN5 = {*ICELAKE, "avx_vnni", "avx512_bf16"}
ALDER_LAKE = {*ZEN3, "avx_vnni"}
MACHINES = {
    "nehalem": ("x86_64", {"sse4_1"}, "x86-sse4", False),
    "zen 3": ("x86_64", ZEN3, "x86-avx2", False),
    "skylake": ("x86_64", SKYLAKE, "x86-avx512", False),
    "ice lake": ("x86_64", ICELAKE, "x86-vnni", False),
    "zen 5": ("x86_64", ZEN5, "x86-vnni", True),
    "alder lake": ("x86_64", ALDER_LAKE, "x86-vnni", False),
    "cortex-a53": ("aarch64", set[str](), "arm-neon", False),
    "cortex-a76": ("aarch64", {"asimddp"}, "arm-dotprod", False),
    "neoverse-v2": ("aarch64", {"asimddp", "i8mm", "bf16"}, "arm-i8mm", False),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    architecture, features, name, bfloat16 = MACHINES[request.param]
    monkeypatch.setattr(target, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(target, "architecture", lambda: architecture)
    monkeypatch.delenv(cpu.OVERRIDE, raising=False)
    target.this_cpu.cache_clear()
    yield name, bfloat16
    target.this_cpu.cache_clear()


@pytest.mark.parametrize("machine", MACHINES, indirect=True)
def test_features_decide_the_class_and_its_precisions(machine: tuple[str, bool]) -> None:
    name, bfloat16 = machine
    here = load_target("cpu")
    assert (here.name, here.cpu_class) == ("cpu", name)
    assert name in here.title
    assert ("bf16" in here.precisions) == bfloat16
    named = load_target(name)
    assert (named.name, named.cpu_class) == (name, name)
    assert named.qdq == here.qdq
    assert "bf16" not in named.precisions, "not every CPU of the class has it"


def test_this_machine_is_of_a_class() -> None:
    assert load_target("cpu").cpu_class in {entry.name for entry in cpu_classes()}


def test_classes_say_what_int8_costs_and_rank_in_order() -> None:
    ranks: dict[str, list[int]] = {}
    for entry in cpu_classes():
        assert entry.cpu is not None
        assert entry.cpu.int8
        assert set(entry.cpu.any_of) <= set(cpu.FEATURES)
        assert {feature for some in entry.cpu.more.values() for feature in some} <= set(cpu.FEATURES)
        ranks.setdefault(entry.cpu.architecture, []).append(entry.cpu.rank)
        for backend in entry.backends:
            assert load_rules(entry.rules(backend)).sums == entry.cpu.sums, entry.name
    for found in ranks.values():
        assert found == list(range(len(found)))


def test_the_environment_claims_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.OVERRIDE, "x86-avx2")
    assert load_target("cpu").cpu_class == "x86-avx2"
    monkeypatch.setenv(cpu.OVERRIDE, "x86-avx3")
    with pytest.raises(UnknownNameError, match=cpu.OVERRIDE):
        load_target("cpu")


def test_an_unknown_architecture_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "architecture", lambda: "riscv64")
    monkeypatch.delenv(cpu.OVERRIDE, raising=False)
    target.this_cpu.cache_clear()
    with pytest.raises(DeviceError, match="riscv64"):
        load_target("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_features_are_those_of_cpuinfo() -> None:
    text = Path("/proc/cpuinfo").read_text()
    words = set((cpu.field(text, "flags") or cpu.field(text, "Features")).split())
    assert cpu.cpu_features() == words & set(cpu.FEATURES)


def test_the_class_is_read_without_an_sdk() -> None:
    code = (
        "import sys, json; from edgedeploy.core.target import load_target; "
        "print(json.dumps([load_target('cpu').cpu_class, [m for m in "
        "('torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, loaded = json.loads(done.stdout)
    assert name == load_target("cpu").cpu_class
    assert loaded == []
