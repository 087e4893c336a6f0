"""ONNX Runtime: CPU everywhere, CUDA and TensorRT where its GPU package is installed.

Worker threads stop spinning when a run ends. By default they continue to spin and slow down what runs next on
the same cores: OpenVINO by 40 % in a bench that alternates between the two; ONNX Runtime gains nothing.
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
)
from edgedeploy.core.artifact_warnings import saturation
from edgedeploy.core.errors import DeviceError, UsageError
from edgedeploy.core.spec import Artifact, TensorSpec, with_shapes
from edgedeploy.core.target import Target
from edgedeploy.runtime.onnx_file import label, made_for, refusal, run_error

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_ERRORS_ONLY = 3


class OnnxRuntimeSession(Session):
    """One InferenceSession; `profile_folder` holds its per-node profile until `layers` reads it."""

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
            raise run_error("onnxruntime", feeds, error) from error
        return dict(zip(self._names, values, strict=True))

    def layers(self) -> list[LayerTime]:
        """As in the base class; reading ends the profile, so a second call returns an empty list."""
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
        self._session(artifact, OpenOptions(provider=provider))
        details = {"runtime_version": self.version(), "provider": provider, **made_for(target)}
        return label(artifact, self.name, target.name, out, details, (time.perf_counter() - start) * 1e3)

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        folder = tempfile.TemporaryDirectory() if options.profile else None
        session = self._session(artifact, options, folder.name if folder else "")
        inferred = {output.name: output.shape for output in session.get_outputs()}
        shapes = {spec.name: _known_dims(spec, inferred.get(spec.name)) for spec in artifact.outputs}
        inputs, outputs = with_shapes(artifact.inputs, options.shapes), with_shapes(artifact.outputs, shapes)
        return OnnxRuntimeSession(inputs, outputs, session, folder)

    def _provider_for(self, target: Target) -> str:
        """CUDA for an NVIDIA target if the installed package has that provider, else the CPU."""
        import onnxruntime

        has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
        return "cuda" if target.compute_capability and has_cuda else "cpu"

    def _session(self, artifact: Artifact, options: OpenOptions, profile_folder: str = "") -> Any:
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
        for name, size in _named_sizes(artifact, options.shapes).items():
            settings.add_free_dimension_override_by_name(name, size)
        if profile_folder:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(profile_folder) / "profile")
        wanted = list(dict.fromkeys([PROVIDERS[provider], PROVIDERS["cpu"]]))
        try:
            session = onnxruntime.InferenceSession(str(artifact.path), settings, providers=wanted)
        except Exception as error:
            raise refusal(self.name, artifact, str(error)) from error
        if session.get_providers()[0] != PROVIDERS[provider]:  # a fallback to the CPU is only logged
            raise DeviceError(
                f"onnxruntime could not start its {provider} provider", "see: edgedeploy doctor"
            )
        return session


def _needs_exact_sums(artifact: Artifact) -> bool:
    """Whether INT8 weights can saturate on this CPU: unsigned weights run exactly, on slower kernels.

    The runtime cannot make weights unsigned that share a zero point.
    """
    layers = saturation(artifact)
    return bool(layers.names) and not layers.shared_zeros


def _named_sizes(artifact: Artifact, shapes: Shapes) -> dict[str, int]:
    """Sizes of the named dimensions of the inputs; raises UsageError for one name with two sizes."""
    sizes: dict[str, int] = {}
    for spec in artifact.inputs:
        for dim, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if isinstance(dim, str) and dim != "?" and sizes.setdefault(dim, size) != size:
                raise UsageError(
                    f"dimension '{dim}' cannot be both {sizes[dim]} and {size}", "feed inputs of one size"
                )
    return sizes


def _known_dims(spec: TensorSpec, shape: Any) -> list[int | str]:
    """The spec's shape with the sizes that the runtime inferred."""
    if shape is None or len(shape) != len(spec.shape):
        return list(spec.shape)
    return [new if isinstance(new, int) else old for new, old in zip(shape, spec.shape, strict=True)]
