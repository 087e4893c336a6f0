"""What a model becomes in the runtimes that are here: TensorRT-RTX's kernels, OpenVINO's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from edgedeploy.calibration import RuleSet, load_rules
from edgedeploy.calibration.lint import Subject, fix
from edgedeploy.calibration.place.ruleset import limited_here
from edgedeploy.runtime.kernel_log import Kernel, parse_kernels
from edgedeploy.runtime.tensorrt_log import make_logger, texts


class Refused(Exception):
    """A parser or builder refuses the model; the message is its own."""


def rtx_kernels(model: onnx.ModelProto, capability: str = "SM86") -> list[Kernel]:
    """Kernels of the engine that TensorRT-RTX builds; raises Refused with its words, skips without it."""
    sdk: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    logger = make_logger(sdk, verbose=False)
    builder = sdk.Builder(logger)
    network = builder.create_network(1 << int(sdk.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = sdk.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        raise Refused("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.profiling_verbosity = sdk.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(sdk.ComputeCapability, capability), 0)
    if builder.build_serialized_network(network, config) is None:
        raise Refused("; ".join(text for level, text in logger.messages if level <= sdk.ILogger.ERROR))
    return parse_kernels(texts(logger))


def rules_here(name: str) -> RuleSet:
    """A rule set, with weights limited where this CPU's kernels would saturate."""
    return limited_here(load_rules(name))


def exact_here(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with Q/DQ, with its weights limited where this CPU's kernels would saturate."""
    return fix(model, Subject(rules_here("openvino")), only=["ED118"]).model


def openvino_output(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """First output of a model of one input in OpenVINO on this CPU, in float32 between its kernels."""
    openvino: Any = pytest.importorskip("openvino", reason="openvino is not installed")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return np.asarray(compiled([x])[0])
