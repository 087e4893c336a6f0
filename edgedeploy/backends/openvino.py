"""OpenVINO on the CPU, the fastest runtime there for INT8 and bfloat16.

It runs the same Q/DQ files as TensorRT. By default the runtime computes float32 models in bfloat16 on a CPU
with bfloat16; the artifact decides the precision here, so the precision hint is always set.
"""

from __future__ import annotations

import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgedeploy.backend import (
    BACKENDS,
    Backend,
    BuildOptions,
    Feeds,
    LayerTime,
    OpenOptions,
    Outputs,
    Session,
    concrete_shapes,
)
from edgedeploy.core.artifact_warnings import saturation
from edgedeploy.core.errors import BuildError, DeviceError
from edgedeploy.core.spec import Artifact, TensorSpec, with_shapes
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label, made_for, refusal, run_error
from edgedeploy.runtime.openvino_rehearsal import rehearse

HINT_KEY = "openvino_inference_precision"
ROUNDS = 20
CLEARLY_FASTER = 0.95


class OpenVinoSession(Session):
    """One inference request; inputs are not copied, outputs are views of the request's memory."""

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], request: Any, profile: bool
    ) -> None:
        super().__init__(inputs, outputs)
        self._request: Any = request
        self._profile = profile

    def _run(self, feeds: Feeds) -> Outputs:
        arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs]
        try:
            values = self._request.infer(arrays, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise run_error("openvino", feeds, error) from error
        return {spec.name: values[index] for index, spec in enumerate(self.outputs)}

    def layers(self) -> list[LayerTime]:
        if not self._profile:
            return []
        return [
            LayerTime(entry.node_name, entry.exec_type, entry.real_time.total_seconds() * 1e3)
            for entry in self._request.profiling_info
            if entry.real_time.total_seconds() > 0
        ]

    def close(self) -> None:
        self._request = None


@BACKENDS.register
class OpenVino(Backend):
    name = "openvino"
    package = "openvino"
    extra = "edgedeploy[cpu]"
    precisions = ("fp32", "bf16", "fp16", "int8", "int4")
    rounds_float = True

    def version(self) -> str:
        return str(_sdk().get_version()).split("-", maxsplit=1)[0]

    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:
        start = time.perf_counter()
        _refuse_saturation(artifact, target)
        rehearse(artifact, _hint(artifact))
        shapes = {**{s.name: s.shape for s in artifact.inputs if s.is_static}, **options.opt_shapes}
        choice = artifact.precision == "int8" and not options.exact_float and _has_bfloat16()
        if choice and len(shapes) == len(artifact.inputs):
            hint = self._faster_hint(artifact, OpenOptions(concrete_shapes(artifact, options.opt_shapes)))
        else:
            hint = _hint(artifact)
            self._compile(artifact, hint, OpenOptions())
        details = {"runtime_version": self.version(), HINT_KEY: hint, **made_for(target)}
        return label(artifact, self.name, target.name, out, details, (time.perf_counter() - start) * 1e3)

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        hint = str(artifact.details.own(HINT_KEY) or _hint(artifact))
        if hint == "bf16" and not _has_bfloat16():
            if artifact.precision == "bf16":
                raise DeviceError(
                    "this CPU has no bfloat16 instructions", "build with --precision fp32 or int8"
                )
            hint = "f32"  # the build machine had bf16 between the int8 layers; this CPU has not
        rehearse(artifact, hint)
        compiled = self._compile(artifact, hint, options)
        shapes = {
            spec.name: [int(dim) for dim in output.partial_shape.to_shape()]
            for spec, output in zip(artifact.outputs, compiled.outputs, strict=True)
            if output.partial_shape.is_static
        }
        inputs, outputs = with_shapes(artifact.inputs, options.shapes), with_shapes(artifact.outputs, shapes)
        return OpenVinoSession(inputs, outputs, compiled.create_infer_request(), options.profile)

    def _compile(self, artifact: Artifact, hint: str, options: OpenOptions) -> Any:
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        if options.threads:
            config["INFERENCE_NUM_THREADS"] = options.threads
        if options.profile:
            config["PERF_COUNT"] = True
        try:
            model = _core().read_model(artifact.path)
            shapes = [list(options.shapes.get(spec.name, ())) for spec in artifact.inputs]
            if any(shapes) and any(not spec.is_static for spec in artifact.inputs):
                model.reshape({index: shape for index, shape in enumerate(shapes) if shape})
            return _core().compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise refusal(self.name, artifact, str(error)) from error

    def _faster_hint(self, artifact: Artifact, options: OpenOptions) -> str:
        """The faster precision of the tensors between int8 layers, timed here.

        bf16 halves the traffic of those tensors but adds conversions and noise (SQNR against the exact int8
        result: ESPCN x3 74 to 55 dB, DDRNet-23-slim 29.5 to 28.9), so it must be clearly faster.
        """
        random, shapes = np.random.default_rng(0).random, options.shapes
        feeds = [random(shapes[spec.name]).astype(np.dtype(spec.dtype)) for spec in artifact.inputs]
        requests = {
            hint: self._compile(artifact, hint, options).create_infer_request() for hint in ("f32", "bf16")
        }
        times: dict[str, list[float]] = {hint: [] for hint in requests}
        for _ in range(ROUNDS + 2):
            for hint, request in requests.items():
                start = time.perf_counter()
                request.infer(feeds, share_inputs=True, share_outputs=True)
                times[hint].append(time.perf_counter() - start)
        quartiles = {hint: np.percentile(values[2:], [25, 50]) for hint, values in times.items()}
        # Both quartiles: on a busy machine the median alone varies by more than the margin in so few rounds.
        return "bf16" if (quartiles["bf16"] < CLEARLY_FASTER * quartiles["f32"]).all() else "f32"


def compile_model(path: str, hint: str) -> None:
    """Read and compile a file, for `rehearse`."""
    _core().compile_model(_core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": hint})


def _refuse_saturation(artifact: Artifact, target: Target) -> None:
    """Raise BuildError for INT8 weights whose sums saturate in this runtime on the target's CPUs."""
    layers = saturation(artifact, target)
    if layers.names:
        raise BuildError(
            f"{len(layers.names)} of {layers.of} INT8 layers can saturate on {target.cpu_class} CPUs, "
            f"'{layers.names[0]}' among them",
            f"quantize the float model with --target {target.name}, or limit the weights: "
            f"edgedeploy lint {artifact.path.name} --for {target.name} --fix -o FIXED.onnx",
        )


def _hint(artifact: Artifact) -> str:
    return "bf16" if artifact.precision == "bf16" else "f32"


def _has_bfloat16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@lru_cache(maxsize=1)
def _core() -> Any:
    return _sdk().Core()


@lru_cache(maxsize=1)
def _sdk() -> Any:
    """The openvino package, imported without its telemetry, which reports every import to Intel."""
    silenced = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if silenced:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing fails: openvino uses a stub
    try:
        import openvino
    finally:
        if silenced:
            del sys.modules["openvino_telemetry"]
    return openvino
