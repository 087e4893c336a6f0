"""ONNX Runtime: CPU everywhere, and its CUDA and TensorRT providers where that build of it is installed.

Worker threads stop spinning when a run ends. By default they spin on, and slow down whatever runs next on the
same cores: OpenVINO by 40 % in a bench that alternates between the two, while ONNX Runtime gains nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from edgedeploy.backend import (
    BACKENDS,
    Backend,
    BuildOptions,
    Feeds,
    LayerTime,
    OpenOptions,
    Outputs,
    Session,
    Shapes,
    concrete_shapes,
)
from edgedeploy.core.artifact_warnings import saturation
from edgedeploy.core.errors import DeviceError, UsageError
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label, made_for, refusal, shortened

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ERRORS_ONLY = 3


class OnnxRuntimeSession(Session):
    """One InferenceSession; with `profile_folder` its per-node profile is kept there until read."""

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        session: Any,
        profile_folder: tempfile.TemporaryDirectory[str] | None,
    ) -> None:
        super().__init__(inputs, outputs)
        self._session: Any = session
        self._folder = profile_folder
        self._names = [spec.name for spec in outputs]

    def _run(self, feeds: Feeds) -> Outputs:
        try:
            values = self._session.run(self._names, feeds)
        except Exception as error:  # its exception classes share no other base
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            message = f"onnxruntime cannot run the model on {shapes}: {shortened(str(error))}"
            raise UsageError(message, "check that the model takes inputs of this size") from error
        return dict(zip(self._names, values, strict=True))

    def layers(self) -> list[LayerTime]:
        """As the base says; reading ends the profile, so a second call answers with an empty list."""
        if self._folder is None:
            return []
        events = json.loads(Path(self._session.end_profiling()).read_text())
        self._folder.cleanup()
        self._folder = None
        last: dict[str, LayerTime] = {}
        for event in events:
            name, kernel, _ = event["name"].rpartition("_kernel_time")
            if event["cat"] == "Node" and kernel:
                last[name] = LayerTime(name, event["args"]["op_name"], event["dur"] / 1e3)
        return list(last.values())

    def close(self) -> None:
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()


@BACKENDS.register
class OnnxRuntime(Backend):
    name = "onnxruntime"
    package = "onnxruntime"
    extra = "edgedeploy[cpu]"
    precisions = ("fp32", "fp16", "int8", "int4")

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:  # noqa: ARG002
        start = time.perf_counter()
        provider = self._provider_for(target)
        self._session(artifact, {}, OpenOptions(provider=provider))
        details = {"runtime_version": self.version(), "provider": provider, **made_for(target)}
        return label(artifact, self.name, target.name, out, details, (time.perf_counter() - start) * 1e3)

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        shapes = concrete_shapes(artifact, options.shapes)
        folder = tempfile.TemporaryDirectory() if options.profile else None
        session = self._session(artifact, shapes, options, folder.name if folder else "")
        inputs = tuple(s.model_copy(update={"shape": shapes[s.name]}) for s in artifact.inputs)
        known = {output.name: output.shape for output in session.get_outputs()}
        outputs = tuple(_with_shape(spec, known.get(spec.name)) for spec in artifact.outputs)
        return OnnxRuntimeSession(inputs, outputs, session, folder)

    def _provider_for(self, target: Target) -> str:
        """CUDA for a target that is an NVIDIA device where this build of the runtime has it, else the CPU."""
        import onnxruntime

        has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
        return "cuda" if target.compute_capability and has_cuda else "cpu"

    def _session(
        self, artifact: Artifact, shapes: Shapes, options: OpenOptions, profile_folder: str = ""
    ) -> Any:
        import onnxruntime

        provider = options.provider or str(artifact.details.own("provider") or "cpu")
        if provider not in PROVIDERS:
            raise UsageError(f"unknown provider '{provider}'", f"known: {', '.join(PROVIDERS)}")
        if PROVIDERS[provider] not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"this onnxruntime has no {provider} provider",
                'pip install "edgedeploy[gpu]" on a GPU machine',
            )
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        settings.intra_op_num_threads = options.threads
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options.optimize and PROVIDERS[provider] == PROVIDERS["cpu"] and _needs_exact_sums(artifact):
            settings.add_session_config_entry("session.x64quantprecision", "1")
        if not options.optimize:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        for name, size in _named_sizes(artifact, shapes).items():
            settings.add_free_dimension_override_by_name(name, size)
        if profile_folder:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(profile_folder) / "profile")
        wanted = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["cpu"]]))
        try:
            session = onnxruntime.InferenceSession(str(artifact.path), settings, providers=wanted)
        except Exception as error:
            raise refusal(self.name, artifact, str(error)) from error
        if session.get_providers()[0] != PROVIDERS[provider]:  # it falls back to the CPU with a log line only
            raise DeviceError(
                f"onnxruntime could not start its {provider} provider", "see: edgedeploy doctor"
            )
        return session


def _needs_exact_sums(artifact: Artifact) -> bool:
    """Whether weights can saturate on this CPU: unsigned ones then run exactly, on slower kernels.

    The runtime refuses to make weights unsigned that share a zero-point.
    """
    found = saturation(artifact)
    return bool(found.names) and not found.shared_zeros


def _named_sizes(artifact: Artifact, shapes: Shapes) -> dict[str, int]:
    """Sizes of the named dimensions of the inputs; raises UsageError where one name would need two sizes."""
    sizes: dict[str, int] = {}
    for spec in artifact.inputs:
        for dim, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if isinstance(dim, str) and dim != "?" and sizes.setdefault(dim, size) != size:
                raise UsageError(
                    f"dimension '{dim}' cannot be both {sizes[dim]} and {size}", "feed inputs of one size"
                )
    return sizes


def _with_shape(spec: TensorSpec, shape: Any) -> TensorSpec:
    if shape is None or len(shape) != len(spec.shape):
        return spec
    dims = tuple(new if isinstance(new, int) else old for new, old in zip(shape, spec.shape, strict=True))
    return spec.model_copy(update={"shape": dims})
