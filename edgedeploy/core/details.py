"""What steps note in an artifact: one frozen model per step, every field optional, read as attributes.

In JSON a record holds the fields that were noted and no others. Keys that this release does not know are
kept: an artifact of a newer release, or of another's backend, loses nothing when it is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer


class _Noted(BaseModel):
    # Validators are built at first use, which `--help` does not reach.
    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    @model_serializer(mode="wrap")
    def _noted_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class OptimizeDetails(_Noted):
    """Node counts of the graph, whether passes were verified, and which were reverted or skipped, and why."""

    nodes_before: int = 0
    nodes_after: int = 0
    verified: bool = False
    problems: tuple[str, ...] = ()


class AdaptDetails(_Noted):
    """Operators that the target lacks, and which of them remain in the graph, and why."""

    ops: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class SignDetails(_Noted):
    """INT8 form of the matrix products of a binary network, and how many products have it."""

    form: str = ""
    products: int = 0


class FloatNode(_Noted):
    """A node that quantization leaves in float."""

    node: str = ""
    op: str = ""
    reason: str = ""


class CalibrationDetails(_Noted):
    """How a model was quantized.

    Attributes:
        excluded: nodes that stay in float.
        problems: what the user should know about the data and the result.
        data: the report on the calibration data, see `DataReport.summary`.
        random: whether the data was random numbers.
    """

    excluded: tuple[FloatNode, ...] = ()
    problems: tuple[str, ...] = ()
    data: Mapping[str, Any] = {}
    random: bool = False


class SplitDetails(_Noted):
    """Tensors at which a model was split, and the file names of the two parts."""

    at: tuple[str, ...] = ()
    head: str = ""
    tail: str = ""


class EngineDetails(_Noted):
    """Number of kernels, memory traffic in 1e6 bytes (None for dynamic sizes), convolutions by data types.

    The types of a convolution are those of its input and output, e.g. {"Half->Half": 52}.
    """

    kernels: int = 0
    mb_moved: float | None = None
    convolutions: Mapping[str, int] = {}


class ConsideredBackend(_Noted):
    """A backend that was built and compared; figures are None where nothing was measured.

    Attributes:
        backend: its name, with the form of the model where that is not the usual one.
        status, verdict: the outcome for programs ("" before there was a status), and in words for people.
        milliseconds: median time of one inference.
        max_rel: largest difference to the reference, relative to the output's largest value.
        sqnr_db: signal to quantization noise against the reference, in dB.
    """

    backend: str = ""
    status: str = ""
    verdict: str = ""
    milliseconds: float | None = None
    max_rel: float | None = None
    sqnr_db: float | None = None


class CandidateDetails(_Noted):
    """A candidate of the guard.

    Attributes:
        milliseconds: median time of one inference, measured or (`estimated`) a lower bound; None: unknown.
        interval: bounds of the median in milliseconds; None where it was not measured.
        scored_in: backend in which the scores were taken.
        scores: metric -> value.
        within, missed: whether the candidate keeps every accuracy budget, and those that it misses.
        kept_float: layer kept in float -> reason.
        status, verdict: the outcome for programs ("" before there was a status), and in words for people.
    """

    name: str = ""
    precision: str = ""
    backend: str = ""
    milliseconds: float | None = None
    interval: tuple[float, ...] | None = None
    estimated: bool = False
    scored_in: str = ""
    scores: Mapping[str, float] = {}
    within: bool = False
    missed: tuple[str, ...] = ()
    kept_float: Mapping[str, str] = {}
    status: str = ""
    verdict: str = ""


class LayerDetails(_Noted):
    """What one layer alone in INT8 costs: SQNR in dB at the model's output and at its own, and agreement."""

    layer: str = ""
    op: str = ""
    output_db: float = 0.0
    own_db: float = 0.0
    agreement: float | None = None


class GuardDetails(_Noted):
    """The contest of precisions: the decision in a sentence, the budgets, all candidates, sensitive layers.

    Attributes:
        calibrated_on, scored_on: numbers of inputs.
        labels: whether scores are against labels; else they are against the fp32 model.
        no_labels_because: why they are not.
        reference: metric -> value of the fp32 model.
        layers: the most sensitive first.
        least_saved: layer and the milliseconds that INT8 saves there, the smallest first; estimated from the
            target's figures where `savings_estimated`.
    """

    sentence: str = ""
    budget: tuple[str, ...] = ()
    calibrated_on: int = 0
    scored_on: int = 0
    labels: bool = False
    no_labels_because: str = ""
    reference: Mapping[str, float] = {}
    candidates: tuple[CandidateDetails, ...] = ()
    layers: tuple[LayerDetails, ...] = ()
    least_saved: tuple[Mapping[str, Any], ...] = ()
    savings_estimated: bool = False


class Details(_Noted):
    """All that steps noted; a record that no step made reads as an empty one.

    Attributes:
        weights, weights_sha256: "random", a name or a path, and the digest of the file.
        source: the model as the user named it.
        surgery: of the graph passes.
        adapted: of the replacement of operators that the target lacks.
        kept_float: layer that a mix keeps in float -> reason.
        sdk, runtime_version: Python package and version that built it.
        compute_capability: of the GPU that an engine is for, e.g. "8.9".
        flags: of the engine's builder.
        onnx, onnx_sha256: file name and digest of the ONNX file that was built.
        rebuild: command line that builds the engine again.
        note: what a user of the engine should know.
        cpu: class of CPU that it was built for, e.g. "x86-avx2".
        considered: backends that took part, the kept one among them.
    """

    weights: str | None = None
    weights_sha256: str | None = None
    source: str = ""
    surgery: OptimizeDetails = Field(default_factory=OptimizeDetails)
    adapted: AdaptDetails = Field(default_factory=AdaptDetails)
    signs: SignDetails = Field(default_factory=SignDetails)
    calibration: CalibrationDetails = Field(default_factory=CalibrationDetails)
    kept_float: Mapping[str, str] = {}
    split: SplitDetails = Field(default_factory=SplitDetails)
    guard: GuardDetails = Field(default_factory=GuardDetails)
    sdk: str = ""
    runtime_version: str = ""
    compute_capability: str = ""
    flags: Mapping[str, Any] = {}
    onnx: str = ""
    onnx_sha256: str = ""
    rebuild: str = ""
    engine: EngineDetails = Field(default_factory=EngineDetails)
    note: str = ""
    cpu: str = ""
    considered: tuple[ConsideredBackend, ...] = ()

    def __or__(self, newer: Details) -> Details:
        """These details with the fields that `newer` sets."""
        return self.model_copy(update={name: getattr(newer, name) for name in newer.model_fields_set})

    def own(self, name: str) -> Any:
        """What a backend noted under a key that only this backend reads; None where nothing was noted."""
        return (self.model_extra or {}).get(name)
