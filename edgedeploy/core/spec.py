"""The nouns that travel between steps: tensors, tasks, history and artifacts.

An artifact is a file plus everything needed to run it. An ONNX file carries that in its own metadata under
one key, an engine in a JSON sidecar beside it; either way `Artifact.load` needs neither torch, onnx nor an
SDK.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgedeploy.core.details import Details
from edgedeploy.core.errors import ArtifactError
from edgedeploy.core.files import replacing, sha256_file, write_text
from edgedeploy.core.onnx_header import DTYPES, HeaderTensor, read_onnx_header, with_metadata
from edgedeploy.core.renamed import TASK_OPTIONS, with_current_keys

METADATA_KEY = "edgedeploy"
SCHEMA = 1

Dim = Annotated[int, Field(ge=0)] | str
Layout = Literal["NCHW", "NHWC", ""]
# fp8: E4M3 where int8 would be; int4: weights of matrix products alone, activations as they are
Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8", "int4"]
Kind = Literal["onnx", "engine"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TensorSpec(_Frozen):
    """Name, numpy dtype name, shape and layout of a graph input or output; a named dimension is dynamic."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    layout: Layout = ""

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(dim, int) for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def with_shapes(
    specs: Iterable[TensorSpec], shapes: Mapping[str, Sequence[int | str]]
) -> tuple[TensorSpec, ...]:
    """The specs with these shapes by name; a spec without a shape there is unchanged."""
    return tuple(
        spec.model_copy(update={"shape": tuple(shapes.get(spec.name, spec.shape))}) for spec in specs
    )


class TaskSpec(_Frozen):
    """What a model's inputs and outputs mean: the name of a file in tasks/ and that task's options."""

    name: str = "tensor"
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _current(cls, options: dict[str, Any]) -> dict[str, Any]:
        return with_current_keys(options, TASK_OPTIONS, where="")  # as older artifacts spell them


class Step(_Frozen):
    """One entry of an artifact's history.

    Attributes:
        name: of the step or pass.
        options: with which it ran.
        hits: how often it applied.
        milliseconds: how long it took.
        error: largest difference to the model before it, relative to the output's largest value; None where
            nothing was compared.
        granted: the error that was let pass beyond the pass's promise, for a network in which the last bit of
            the input moves the output as far; None where the promise was kept.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    hits: int = 0
    milliseconds: float = 0.0
    error: float | None = None
    granted: float | None = None


class Artifact(_Frozen):
    """A model file that describes itself.

    Attributes:
        path: the file.
        kind: "onnx" or "engine".
        digest: sha256 of the file.
        model: name of the model, e.g. "espcn_x3".
        inputs, outputs: in graph order.
        task: what the tensors mean.
        labels: class names in index order, or empty.
        precision: the lowest precision in which the weighted operators run.
        backend, target: set once a backend has built it.
        history: what made it, oldest first.
        details: what steps noted, see `Details`.
    """

    path: Path = Field(exclude=True)
    digest: str = Field(default="", exclude=True)
    kind: Kind
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: TaskSpec = TaskSpec()
    labels: tuple[str, ...] = ()
    precision: Precision = "fp32"
    backend: str = ""
    target: str = ""
    history: tuple[Step, ...] = ()
    details: Details = Field(default_factory=Details)

    @staticmethod
    def load(path: Path | str) -> Artifact:
        """Read an artifact from disk; raises ArtifactError with a hint if anything is wrong with it."""
        path = Path(path)
        if not path.is_file():
            what = "is a folder, not a model file" if path.is_dir() else "does not exist"
            raise ArtifactError(f"{path} {what}", "make one with: edgedeploy export MODEL -o model.onnx")
        if sidecar_path(path).is_file():
            return _load_engine(path)
        if path.suffix in {".engine", ".plan", ".trt"}:
            raise ArtifactError(
                f"{path} has no sidecar {sidecar_path(path).name}",
                "copy the .json file beside the engine, or build it again from its .onnx",
            )
        return _load_onnx(path)

    def to_json(self) -> str:
        """Everything but path and digest, as stored in ONNX metadata and engine sidecars."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, separators=(",", ":"))

    def save_sidecar(self) -> None:
        """Write the engine's sidecar beside it."""
        document = {"schema": SCHEMA, "sha256": self.digest, **self.model_dump(mode="json")}
        write_text(sidecar_path(self.path), json.dumps(document, indent=2) + "\n")

    def saved_at(self, out: Path | None = None, **changes: Any) -> Artifact:
        """The same graph or engine with these fields changed, at `out` or in place; raises OutputError."""
        out = out or self.path
        changed = self.model_copy(update={**changes, "path": out})
        if self.kind == "onnx":
            with_metadata(self.path, METADATA_KEY, changed.to_json(), out)
            return changed.model_copy(update={"digest": sha256_file(out)})
        if out != self.path:
            with replacing(out) as temporary:
                shutil.copyfile(self.path, temporary)
        changed.save_sidecar()
        return changed

    def with_step(self, step: Step, **changes: Any) -> Artifact:
        """A copy with one more entry of history and other fields replaced."""
        return self.model_copy(update={**changes, "history": (*self.history, step)})


def sidecar_path(path: Path) -> Path:
    """Where the JSON of an engine stands: `x.engine` has `x.engine.json`."""
    return path.with_name(path.name + ".json")


def _load_engine(path: Path) -> Artifact:
    try:
        document = json.loads(sidecar_path(path).read_text())
        digest = document.pop("sha256")
        artifact = _parse(document, path, digest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{sidecar_path(path)} is damaged: {error}", "build the engine again") from error
    if sha256_file(path) != digest:
        raise ArtifactError(
            f"{path} is not the engine that its sidecar describes (sha256 differs)",
            "copy both files together, or build the engine again",
        )
    return artifact


def _load_onnx(path: Path) -> Artifact:
    header = read_onnx_header(path)
    digest = sha256_file(path)
    own = header.metadata.get(METADATA_KEY)
    if own is None:  # somebody else's file: its graph says all that is known
        inputs = tuple(TensorSpec(name=i.name, dtype=i.dtype, shape=i.shape) for i in header.inputs)
        outputs = tuple(TensorSpec(name=o.name, dtype=o.dtype, shape=o.shape) for o in header.outputs)
        return Artifact(
            path=path, digest=digest, kind="onnx", model=path.stem, inputs=inputs, outputs=outputs
        )
    try:
        artifact = _parse(json.loads(own), path, digest)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} has damaged edgedeploy metadata: {error}", "export the model again"
        ) from error
    reason = "" if artifact.kind == "onnx" else f"it is no {artifact.kind}"
    reason = reason or _misfit(artifact.inputs, header.inputs) or _misfit(artifact.outputs, header.outputs)
    if reason:
        raise ArtifactError(
            f"{path}: its metadata does not fit its graph: {reason}", "export the model again"
        )
    return artifact


def _misfit(told: Sequence[TensorSpec], found: Sequence[HeaderTensor]) -> str:
    """What the metadata says otherwise than the graph; what the graph leaves open fits anything."""
    names = [tensor.name for tensor in found]
    if [spec.name for spec in told] != names:
        return f"{', '.join(spec.name for spec in told) or 'nothing'} stands for {', '.join(names)}"
    for spec, tensor in zip(told, found, strict=True):
        same = spec.dtype == tensor.dtype or tensor.dtype not in DTYPES.values()
        # An empty shape is that of a scalar, or of a tensor whose shape the graph does not tell.
        if tensor.shape:
            same = same and len(spec.shape) == len(tensor.shape)
            same = same and all(
                not isinstance(dim, int) or not isinstance(own, int) or dim == own
                for dim, own in zip(spec.shape, tensor.shape, strict=False)
            )
        if not same:
            return f"{spec} stands for {tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
    return ""


def _parse(document: dict[str, Any], path: Path, digest: str) -> Artifact:
    schema = document.pop("schema", None)
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path} was written with metadata schema {schema}; this version reads {SCHEMA}",
            "make it again with this version, or install the version that wrote it",
        )
    try:
        artifact = Artifact(path=path, digest=digest, **document)
    except ValidationError as error:
        raise ValueError(f"{error.error_count()} bad fields, first {error.errors()[0]['loc']}") from error
    _check_normalization(artifact.task.options)
    return artifact


def _check_normalization(options: Mapping[str, Any]) -> None:
    """Raise ValueError unless `mean` and `std`, where given, are numbers that pixels can be normalized by."""
    for name in ("mean", "std"):
        values = options.get(name, [])
        values = values if isinstance(values, (list, tuple)) else [values]
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(f"{name} is not a list of numbers")
        if name == "std" and 0 in values:
            raise ValueError("std has a zero")
