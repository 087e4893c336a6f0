"""One model of the zoo in INT8 by every rule set: what `benchmarks.int8_zoo` runs in a process of its own.

Weights are random with the statistics of a trained network, and inputs are random: what is judged is where
Q/DQ stand and who takes them, not accuracy on a task.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.zoo_row import Log, trained_alike
from edgedeploy.calibration import load_rules, quantize
from edgedeploy.calibration.lint import fix, lint, subject_named
from edgedeploy.calibration.lint.verify import run
from edgedeploy.calibration.place.ruleset import RuleSet, limited_here
from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import CalibrationError, EdgeDeployError
from edgedeploy.core.job import Job
from edgedeploy.core.parity import worst_difference
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.target import load_target
from edgedeploy.graphs.run import Feeds
from edgedeploy.models import MODELS
from edgedeploy.pipeline import run as deploy
from edgedeploy.runtime.kernel_log import parse_kernels, summarize
from edgedeploy.runtime.tensorrt_log import make_logger, texts

# One of each runtime that can be tried here, and of each that only a parser judges.
RULES = (
    "tensorrt",
    "tensorrt-10.3",
    "tensorrt-11",
    "tensorrt-rtx",
    "openvino",
    "onnxruntime",
    "onnxruntime-arm",
)
NOTHING = "no operator can run in INT8"
# It chooses codes of weights, by which no runtime takes a file or refuses it, in two thirds of all the time.
LEFT_OUT = "adaround"
CAPABILITY = "SM86"
Row = dict[str, Any]


def measure(name: str) -> Row:
    """The row of a model; a step that fails is named in it, with the reason."""
    info, started = MODELS.get(name), time.perf_counter()
    row: Row = {"model": name, "input": list(info.input_shape), "failed": "", "rules": {}}
    try:
        network, inputs = trained_alike(info)
        with TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.pth"
            torch.save(network.state_dict(), weights)
            recipe = Recipe().edited(["precision=fp32", "capture.seeds=1", "optimize.seeds=1"])
            # Both OpenVINO and TensorRT-RTX lack DeformConv, which the step "replace" rewrites here.
            job = Job(name, recipe, load_target("cpu"), weights=str(weights))
            folded = deploy(job, Log(), Cache(Path(folder) / "cache"), "replace")
            model = onnx.load(folded.path)
        feeds = [{folded.inputs[0].name: x.numpy()} for x in inputs]
        for rules in RULES:
            row["rules"][rules] = judge(model, feeds, rules)
    except EdgeDeployError as error:
        row["failed"] = str(error)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def judge(model: onnx.ModelProto, feeds: Sequence[Feeds], name: str) -> Row:
    """A float model quantized by a rule set: what lint says, and what its runtimes make of it."""
    rules = limited_here(load_rules(name))
    try:
        quantized, counts = with_codes(model, feeds, rules)
    except CalibrationError as error:
        return {"nothing": str(error)} if NOTHING in str(error) else {"failed": str(error)}
    found = lint(quantized, subject_named(name))
    result: Row = {
        **counts,
        "findings": [f"{e.id} {e.node}: {e.why}" for e in found if e.severity != "advice"],
        "advice": dict(Counter(e.id for e in found if e.severity == "advice")),
    }
    exact, floats = run(quantized, feeds), run(model, feeds)
    result["rounding_db"] = agreement(floats, exact)
    if rules.runtime in {"tensorrt", "tensorrt-rtx", "dla"}:
        result["engine"] = engine(quantized)
    if "openvino" in (rules.runtime, *rules.serves):
        served = lint(quantized, subject_named("openvino"))
        result["openvino"] = sorted({e.id for e in served if e.severity == "error"})
        fixed = (
            fix(quantized, subject_named("openvino"), only=["ED114"]).model
            if result["openvino"]
            else quantized
        )
        computed = [openvino(fixed, feed) for feed in feeds]
        result["openvino_db"] = agreement(exact, computed)
        result["openvino_loss"] = round(result["rounding_db"] - agreement(floats, computed), 1)
    if rules.runtime == "onnxruntime":
        computed = [onnxruntime(quantized, feed) for feed in feeds]
        result["onnxruntime_db"] = agreement(exact, computed)
        result["onnxruntime_loss"] = round(result["rounding_db"] - agreement(floats, computed), 1)
    return result


def with_codes(model: onnx.ModelProto, feeds: Sequence[Feeds], rules: RuleSet) -> tuple[onnx.ModelProto, Row]:
    """The model with Q/DQ, and how many operators are in INT8 and how many weighted ones in float."""
    corrections = {name: told for name, told in rules.corrections.items() if name != LEFT_OUT}
    done = quantize(model, lambda: iter(feeds), method="minmax", rules=rules, corrections=corrections)
    placement = done.report.placement
    weighted = Counter(note.op in rules.weighted for note in placement.excluded)
    return done.model, {"int8": len(placement.quantized), "float": weighted[True]}


def engine(model: onnx.ModelProto) -> Row:
    """What TensorRT-RTX makes of a model: kernels by the types of their convolutions, or its refusal."""
    try:
        import tensorrt_rtx as sdk
    except ImportError:
        return {"absent": "tensorrt-rtx is not installed"}
    logger = make_logger(sdk, verbose=False)
    builder = sdk.Builder(logger)
    network = builder.create_network(1 << int(sdk.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = sdk.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return {"failed": "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))}
    config = builder.create_builder_config()
    config.profiling_verbosity = sdk.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(sdk.ComputeCapability, CAPABILITY), 0)
    _profile(builder, config, network)
    if builder.build_serialized_network(network, config) is None:
        return {"failed": "; ".join(text for level, text in logger.messages if level <= sdk.ILogger.ERROR)}
    return summarize(parse_kernels(texts(logger))).model_dump()


def _profile(builder: Any, config: Any, network: Any) -> None:
    """Dynamic sizes: as in the feeds they are known only to the caller, so 1 and 64 stand for all."""
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if any(size < 0 for size in tensor.shape):
            dynamic = True
            shape = [size if size > 0 else 1 if axis == 0 else 64 for axis, size in enumerate(tensor.shape)]
            profile.set_shape(tensor.name, shape, shape, shape)
    if dynamic:
        config.add_optimization_profile(profile)


def openvino(model: onnx.ModelProto, feed: Feeds) -> Feeds:
    """Outputs in OpenVINO on this CPU, in float32 between its integer kernels."""
    import openvino as sdk

    core = sdk.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    names = [value.name for value in model.graph.output]
    return {name: np.asarray(compiled(feed)[index]) for index, name in enumerate(names)}


def onnxruntime(model: onnx.ModelProto, feed: Feeds) -> Feeds:
    """Outputs in ONNX Runtime with all of its fusions."""
    import onnxruntime as sdk

    options = sdk.SessionOptions()
    options.log_severity_level = 3
    session = sdk.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def agreement(exact: Sequence[Feeds], computed: Sequence[Feeds]) -> float:
    """Worst SQNR in dB; equal outputs count as 200."""
    return round(min(worst_difference(zip(exact, computed, strict=True)).sqnr_db, 200.0), 1)
