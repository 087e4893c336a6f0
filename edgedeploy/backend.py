"""The contract between the toolkit and an inference runtime.

A backend is a class in a file of its own: it builds (ONNX -> artifact) and opens (artifact -> session). The
public methods here check arguments; `_build`, `_open` and `_run` of a plug-in rely on those checks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import ArtifactError, BuildError, MissingDependencyError, UsageError
from edgedeploy.core.registry import Registry
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.core.target import Target

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Outputs = dict[str, Array]
Shapes = Mapping[str, tuple[int, ...]]

# A larger size is a typing error or a hostile file: an 8K image has 100 million elements.
MAX_INPUT_ELEMENTS = 512 << 20


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        workspace_mb: limit of the builder's scratch memory in MB; None: the SDK's default.
        optimization_level: 0 to 5 where the SDK has levels; None: the SDK's default.
        min_shapes, opt_shapes, max_shapes: shape per input, for engines of dynamic size.
        verbose: print the SDK's log.
        exact_float: compute float layers of an int8 model in float32, even if another type is faster.
    """

    workspace_mb: int | None = None
    optimization_level: int | None = None
    min_shapes: Shapes = field(default_factory=dict)
    opt_shapes: Shapes = field(default_factory=dict)
    max_shapes: Shapes = field(default_factory=dict)
    verbose: bool = False
    exact_float: bool = False


@dataclass(frozen=True)
class OpenOptions:
    """Options of opening an artifact.

    Attributes:
        shapes: concrete shape per input; required for inputs of dynamic size.
        threads: number of CPU threads; 0: the runtime's choice.
        profile: measure time per layer for `Session.layers`, where the runtime can.
        provider: "cpu", "cuda" or "tensorrt" in ONNX Runtime; "": the provider of the build.
        optimize: whether the runtime may rewrite the graph; False makes a reference for comparisons.
    """

    shapes: Shapes = field(default_factory=dict)
    threads: int = 0
    profile: bool = False
    provider: str = ""
    optimize: bool = True


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer in the last run, with the runtime's names and fusions."""

    name: str
    kind: str
    milliseconds: float


class Session(ABC):
    """An open model: `session(feeds) -> outputs`; use as a context manager.

    Attributes:
        inputs, outputs: specs, with concrete shapes where known.
        device_ms: time of the last run by the device's clock in ms; None without such a clock.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.device_ms: float | None = None

    def __call__(self, feeds: Feeds) -> Outputs:
        """Run once. Raises UsageError for feeds of other names, dtypes or shapes than `inputs`.

        The returned arrays may be memory of the runtime, valid until the next call.
        """
        for spec in self.inputs:
            check_feed(spec, feeds)
        if len(feeds) != len(self.inputs):
            extra = sorted(set(feeds) - {spec.name for spec in self.inputs})
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(f"there is no input called {', '.join(extra)}", f"the inputs are {wanted}")
        return self._run(feeds)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def layers(self) -> list[LayerTime]:
        """Time per layer of the last run, in order; empty without `profile` or without support for it."""
        return []

    def close(self) -> None:  # noqa: B027  most runtimes are freed by garbage collection
        """Free memory of the device."""

    @abstractmethod
    def _run(self, feeds: Feeds) -> Outputs: ...


class Backend(ABC):
    """One runtime, one file: a subclass decorated with `@BACKENDS.register`; the entry is an instance.

    Attributes:
        name: registry name, e.g. "onnxruntime".
        package: import name of the SDK; "" without one.
        extra: argument of `pip install`, e.g. "edgedeploy[cpu]".
        precisions: precisions that the runtime can run.
        rounds_float: whether float layers of an int8 model may run in a smaller type if that is faster.
        suffix: suffix of built files.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    rounds_float: ClassVar[bool] = False
    suffix: ClassVar[str] = ".onnx"

    def why_not(self) -> str:
        """Reason why this backend cannot run here, in one line; "" if it can. Must not import the SDK."""
        from importlib.util import find_spec

        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed"
        return ""

    def install_hint(self) -> str:
        """The command that installs the SDK."""
        return f'pip install "{self.extra}"'

    @abstractmethod
    def version(self) -> str:
        """Version of the SDK; imports it."""

    def build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact:
        """Compile an ONNX artifact for a target and write it to `out`.

        Raises MissingDependencyError; ArtifactError for an artifact that is built already; UsageError for a
        precision that the target lacks; BuildError for a model or precision that this backend refuses
        (UnsupportedOpError for an operator). After an error `out` is unchanged.
        """
        self._require()
        if artifact.kind != "onnx":
            raise ArtifactError(f"{artifact.path} is already built", "build from the .onnx that it came from")
        if artifact.precision not in target.precisions:
            raise UsageError(
                f"{target.title} does not run {artifact.precision}",
                f"use one of: {', '.join(target.precisions)}",
            )
        if artifact.precision not in self.precisions:
            raise BuildError(
                f"backend {self.name} does not run {artifact.precision}",
                f"use one of: {', '.join(self.precisions)}",
            )
        return self._build(artifact, target, options, out)

    def open(self, artifact: Artifact, options: OpenOptions | None = None) -> Session:
        """Open an artifact for inference.

        Raises MissingDependencyError; DeviceError without the device; EngineMismatchError for an engine of
        another device; BuildError for a file that the runtime refuses; UsageError for wrong shapes.
        """
        self._require()
        options = options or OpenOptions()
        return self._open(artifact, replace(options, shapes=concrete_shapes(artifact, options.shapes)))

    def _require(self) -> None:
        reason = self.why_not()
        if reason:
            raise MissingDependencyError(f"backend {self.name}: {reason}", self.install_hint())

    @abstractmethod
    def _build(self, artifact: Artifact, target: Target, options: BuildOptions, out: Path) -> Artifact: ...

    @abstractmethod
    def _open(self, artifact: Artifact, options: OpenOptions) -> Session:
        """Open the artifact; `options.shapes` has the concrete shape of every input."""


BACKENDS: Registry[Backend] = Registry("backend", "edgedeploy.backends", entry_of=lambda kind: kind())


def check_feed(spec: TensorSpec, feeds: Feeds) -> None:
    """Raise UsageError unless `feeds` has this input with a matching dtype and shape."""
    value = feeds.get(spec.name)
    if value is None:
        raise UsageError(f"input '{spec.name}' is missing", f"it wants {spec}")
    if value.dtype != np.dtype(spec.dtype):
        raise UsageError(f"input '{spec.name}' has dtype {value.dtype}", f"it wants {spec}")
    fits = value.ndim == len(spec.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        raise UsageError(f"input '{spec.name}' has shape {list(value.shape)}", f"it wants {spec}")


def concrete_shapes(artifact: Artifact, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shape of every input: from `shapes`, else the artifact's.

    Raises UsageError for a dynamic input without a shape, a shape that does not fit, and one of more than
    MAX_INPUT_ELEMENTS elements.
    """
    result: dict[str, tuple[int, ...]] = {}
    for spec in artifact.inputs:
        wanted = shapes.get(spec.name)
        own = spec.shape
        if wanted is None:
            if not spec.is_static:
                raise UsageError(f"input {spec} has a dynamic size", "say which with --size HEIGHTxWIDTH")
            wanted = tuple(int(dim) for dim in own)
        elif len(wanted) != len(own) or any(
            isinstance(o, int) and o != w for o, w in zip(own, wanted, strict=True)
        ):
            raise UsageError(
                f"input {spec} cannot be {list(wanted)}", "export the model for that size, or with --dynamic"
            )
        if math.prod(wanted) > MAX_INPUT_ELEMENTS:
            raise UsageError(
                f"input {spec} as {list(wanted)} has more than {MAX_INPUT_ELEMENTS >> 20} million elements",
                "choose a smaller --size, or export the model for one",
            )
        result[spec.name] = tuple(wanted)
    return result
