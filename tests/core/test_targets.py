"""Targets are data: every file has to be whole, consistent, and buildable by backends that exist."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgedeploy.backends import BACKENDS
from edgedeploy.calibration import load_rules
from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.target import Figures, Target, load_target, target_names

# TensorRT-RTX 1.7 compiles for these; what else there is needs TensorRT on the device.
RTX_CAPABILITIES = {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}


@pytest.mark.parametrize("name", target_names())
def test_target_is_consistent(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.title
    assert target.precision_note, "a user wants to know why the default precision is the default"
    assert set(target.backends) <= set(BACKENDS.names())
    for precision in target.precisions:
        assert any(precision in BACKENDS.get(backend).precisions for backend in target.backends)
    if target.compute_capability is None:
        assert target.cpu is not None
        assert target.cpu_class == name or name == "cpu"
    elif "tensorrt-rtx" in target.backends:
        assert target.compute_capability in RTX_CAPABILITIES


@pytest.mark.parametrize("name", [name for name in target_names() if load_target(name).cpu is None])
def test_figures_agree_with_each_other(name: str) -> None:
    """FP32 = multiprocessors x FMA lanes x 2 x clock; INT8 and FP16 tensor rates follow per generation."""
    target = load_target(name)
    figures, capability = target.figures, target.compute_capability
    assert figures.sms
    assert figures.clock_ghz
    assert figures.fp32_tflops
    assert figures.fp16_tflops
    lanes = 64 if capability in {"7.2", "7.5"} else 128
    assert figures.fp32_tflops == pytest.approx(figures.sms * lanes * 2 * figures.clock_ghz / 1e3, rel=0.03)
    if figures.int8_tops is None:
        assert "int8" not in target.precisions
        return
    if "int8_tops" not in figures.unsure:
        per_clock = 4096 if capability == "8.7" else 2048
        # Some published peaks are at a boost clock other than the one listed.
        assert figures.int8_tops == pytest.approx(figures.sms * per_clock * figures.clock_ghz / 1e3, rel=0.04)
    assert figures.int8_tops == pytest.approx(2 * figures.fp16_tflops, rel=0.02)


def test_devices_without_int8_instructions_do_not_offer_it() -> None:
    """Below compute capability 7 there are none, and Q/DQ would only slow the network down."""
    for name in target_names():
        target = load_target(name)
        if target.compute_capability and float(target.compute_capability) < 7:
            assert "int8" not in target.precisions


def test_fp8_is_offered_where_the_hardware_has_it() -> None:
    """E4M3 in tensor cores came with compute capability 8.9; TensorRT-RTX refuses to build it for 8.6."""
    for name in target_names():
        target = load_target(name)
        capability = float(target.compute_capability or 0)
        assert ("fp8" in target.precisions) == (capability >= 8.9), name
        if "fp8" in target.precisions:
            assert {load_rules(target.rules(backend)).activation for backend in target.backends} == {"int8"}


def test_unknown_target_names_the_closest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_target("rtx-409")
    assert "rtx-4090" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_precision": "int8"},
        {"compute_capability": "sm89"},
        {"backends": ()},
        {"figures": {"int8_tops": -1}},
        {"figures": {"unsure": ["l3_mb"]}},
        {"color": "green"},
    ],
)
def test_invalid_target_is_refused(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {
        "name": "x", "title": "X", "backends": ("null",), "precisions": ("fp32",),
        "default_precision": "fp32",
    }  # fmt: skip
    Target.model_validate(good)
    with pytest.raises(ValidationError):
        Target.model_validate({**good, **wrong})


def test_figures_are_frozen() -> None:
    figures = Figures(fp32_tflops=1.0)
    with pytest.raises(ValidationError):
        figures.fp32_tflops = 2.0  # type: ignore[misc]
