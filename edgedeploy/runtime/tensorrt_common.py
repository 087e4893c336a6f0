"""The common code of both flavors of TensorRT, whose SDKs share their Python API.

The graph determines the precision: the network is strongly typed if the SDK has that flag (optional from
10.12, always from 11). Engine files are plain, so `trtexec` loads them; the sidecar holds the metadata. An
engine contains code for the GPU: open only engines from a builder whom you trust.
"""

from __future__ import annotations

import importlib
import shlex
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from edgedeploy.backend import Backend, BuildOptions, OpenOptions, Session, concrete_shapes
from edgedeploy.core.details import Details
from edgedeploy.core.errors import EngineMismatchError, UsageError
from edgedeploy.core.files import replacing, sha256_file
from edgedeploy.core.spec import Artifact, Step
from edgedeploy.core.target import Target
from edgedeploy.runtime import cuda as _cuda
from edgedeploy.runtime.kernel_log import parse_kernels, summarize
from edgedeploy.runtime.onnx_file import is_quantized
from edgedeploy.runtime.tensorrt_log import build_error, make_logger, parser_error, texts
from edgedeploy.runtime.tensorrt_session import TensorRtSession


class TensorRtBackend(Backend):
    """The base of both flavors; `_aim` chooses the GPU of an engine."""

    precisions = ("fp32", "fp16", "int8", "fp8")
    suffix = ".engine"

    def version(self) -> str:
        return str(self._sdk().__version__)

    @abstractmethod
    def _aim(self, sdk: Any, config: Any, target: Target) -> str:
        """Set the builder's target device; returns its compute capability such as "8.9"."""

    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:
        start = time.perf_counter()
        sdk = self._sdk()
        logger = make_logger(sdk, options.verbose)
        builder = sdk.Builder(logger)
        network = builder.create_network(_network_flags(sdk))
        parser = sdk.OnnxParser(network, logger)
        # The parser finds external weight files by the path.
        if not parser.parse(artifact.path.read_bytes(), str(artifact.path)):
            raise parser_error(sdk, self.name, parser, logger, artifact.model)
        config = builder.create_builder_config()
        flags = _configure(sdk, config, artifact, options)
        capability = self._aim(sdk, config, target)
        _add_profile(builder, config, artifact, options)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise build_error(sdk, self.name, logger, artifact.model)
        with replacing(out) as temporary:
            temporary.write_bytes(plan)
        kernels = parse_kernels(texts(logger))
        details = {
            "sdk": self.package,
            "runtime_version": self.version(),
            "compute_capability": capability,
            "flags": flags,
            "onnx": artifact.path.name,
            "onnx_sha256": artifact.digest,
            "rebuild": _rebuild_command(artifact, target),
            **({"engine": summarize(kernels)} if kernels else {}),
            **self._notes(artifact),
        }
        step = Step(
            name="build",
            options={"backend": self.name, "target": target.name},
            milliseconds=(time.perf_counter() - start) * 1e3,
        )
        built = artifact.with_step(
            step,
            path=out,
            digest=sha256_file(out),
            kind="engine",
            backend=self.name,
            target=target.name,
            details=artifact.details | Details.model_validate(details),
        )
        built.save_sidecar()
        return built

    def _notes(self, artifact: Artifact) -> dict[str, str]:  # noqa: ARG002
        """Notes for users about this engine, for its sidecar."""
        return {}

    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        built_with = artifact.details.runtime_version
        rebuild = artifact.details.rebuild or "edgedeploy build MODEL.onnx --target TARGET"
        rebuild += f" -o {shlex.quote(str(artifact.path))}"
        if artifact.kind != "engine":
            raise UsageError(
                f"{artifact.path} is not an engine", "build one: edgedeploy build, for a GPU target"
            )
        if built_with != self.version():
            raise EngineMismatchError(
                f"{artifact.path} was built by {self.name} {built_with}; here is {self.version()}", rebuild
            )
        here, built_for = _cuda.compute_capability(), artifact.details.compute_capability
        if here != built_for:
            raise EngineMismatchError(
                f"{artifact.path} is for compute capability {built_for}; the GPU here has {here}", rebuild
            )
        return TensorRtSession(self._sdk(), self.name, artifact, options)

    def _sdk(self) -> Any:
        return importlib.import_module(self.package)


def _network_flags(sdk: Any) -> int:
    """Explicit batch for 8.x, strong typing if the SDK has it."""
    known = sdk.NetworkDefinitionCreationFlag.__members__
    return sum(1 << int(known[name]) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in known)


def _configure(sdk: Any, config: Any, artifact: Artifact, options: BuildOptions) -> dict[str, Any]:
    """Set the options of the builder; returns them for the sidecar."""
    config.profiling_verbosity = sdk.ProfilingVerbosity.DETAILED
    flags: dict[str, Any] = {
        "strongly_typed": "STRONGLY_TYPED" in sdk.NetworkDefinitionCreationFlag.__members__
    }
    if not flags["strongly_typed"]:  # 8.x: the builder needs permission for the types of the graph
        allowed = {"fp16": ["FP16"], "int8": ["FP16"], "fp8": ["FP16"]}.get(artifact.precision, [])
        flags["builder_flags"] = [*(["INT8"] if is_quantized(artifact) else []), *allowed]
        for name in flags["builder_flags"]:
            config.set_flag(getattr(sdk.BuilderFlag, name))
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(sdk.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        flags["workspace_mb"] = options.workspace_mb
    if options.optimization_level is not None:
        if options.optimization_level not in range(6):  # the SDK takes any number and ignores it
            level = options.optimization_level
            raise UsageError(f"optimization level {level} is not one of 0 to 5", "leave it out")
        config.builder_optimization_level = options.optimization_level
        flags["optimization_level"] = options.optimization_level
    return flags


def _add_profile(builder: Any, config: Any, artifact: Artifact, options: BuildOptions) -> None:
    """Add the sizes of a dynamic model: `opt_shapes`, with `min_shapes` and `max_shapes` if given."""
    if all(spec.is_static for spec in artifact.inputs):
        return
    best = concrete_shapes(artifact, options.opt_shapes)
    least = concrete_shapes(artifact, {**best, **options.min_shapes})
    most = concrete_shapes(artifact, {**best, **options.max_shapes})
    profile = builder.create_optimization_profile()
    for name in best:
        ordered = zip(least[name], best[name], most[name], strict=True)
        if not all(low <= middle <= high for low, middle, high in ordered):
            raise UsageError(
                f"sizes of input {name} are not in order: {least[name]} <= {best[name]} <= {most[name]}",
                "give min, opt and max shapes that grow",
            )
        profile.set_shape(name, least[name], best[name], most[name])
    config.add_optimization_profile(profile)


def _rebuild_command(artifact: Artifact, target: Target) -> str:
    """The command line that builds this engine again, without its output.

    The built file may be an intermediate one. `details.source` is the user's model if the deployment noted
    it; otherwise it is the zoo model that was captured.
    """
    source = artifact.details.source
    if not source and artifact.history and artifact.history[0].name == "capture":
        source = artifact.model
    words = ["edgedeploy", "build", source or str(artifact.path), "--target", target.name]
    words += ["--precision", artifact.precision]
    if source and not source.endswith(".onnx"):  # an .onnx file contains weights and Q/DQ
        if artifact.details.weights:
            words += ["--weights", artifact.details.weights]
        if artifact.precision == "int8":
            words += ["--data", "FOLDER"]
    return shlex.join(words)
