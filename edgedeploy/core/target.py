"""A device as data: its backends, its precisions, its Q/DQ rules, and how fast it could be."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgedeploy.core.data_files import data_names, load_data
from edgedeploy.core.spec import Precision

PACKAGE = "edgedeploy.targets"


class Figures(BaseModel):
    """Peak rates of a device for the roofline, dense (no sparsity); None where nobody publishes one.

    Attributes:
        fp32_tflops: of the CUDA cores; TF32 engines exceed it.
        fp16_tflops: of the tensor cores with FP16 accumulation; on GeForce half of it with FP32 accumulation.
        int8_tops: of the GPU, without DLA; dla_int8_tops: of all DLA cores together.
        memory_gb_per_s, memory_gb: bandwidth and size. l2_mb: second-level cache.
        sms, clock_ghz: multiprocessors and their clock. power_w: modes, or board power, in watts.
        unsure: names of the figures above on which sources disagree; measure them on the device.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    fp32_tflops: float | None = Field(default=None, gt=0)
    fp16_tflops: float | None = Field(default=None, gt=0)
    int8_tops: float | None = Field(default=None, gt=0)
    dla_int8_tops: float | None = Field(default=None, gt=0)
    memory_gb_per_s: float | None = Field(default=None, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    l2_mb: float | None = Field(default=None, gt=0)
    sms: int | None = Field(default=None, gt=0)
    clock_ghz: float | None = Field(default=None, gt=0)
    power_w: str = ""
    unsure: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _unsure_of_what(self) -> Figures:
        strange = sorted(set(self.unsure) - set(type(self).model_fields))
        if strange:
            raise ValueError(f"unsure names no figure: {', '.join(strange)}")
        return self


class Target(BaseModel):
    """One file of targets/*.toml.

    Attributes:
        name: the file's name without suffix, e.g. "rtx-4090".
        title: how people call the device.
        backends: candidates, best guess first; `build` takes the fastest that is installed and passes parity.
        precisions: what the device runs, and `default_precision` what `build` makes unless told.
        qdq: name of the Q/DQ rule set in calibration/rules for int8, or one for each backend.
        unsupported_ops: ONNX operators that a backend of the target lacks; passes called `lower-*` and
            `decompose-*` rewrite them.
        newest_opset: the newest ONNX opset that the target's runtime reads; None where it is new enough for
            all that this package writes.
        compute_capability: CUDA SM such as "8.9", for engines that are built for one.
        precision_note: why the default precision is the default.
        notes: what else to know before deploying there.
        figures: see Figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    backends: tuple[str, ...] = Field(min_length=1)
    precisions: tuple[Precision, ...] = Field(min_length=1)
    default_precision: Precision
    qdq: str | dict[str, str] = "tensorrt"
    unsupported_ops: tuple[str, ...] = ()
    newest_opset: int | None = Field(default=None, ge=7)
    compute_capability: str | None = Field(default=None, pattern=r"^\d{1,2}\.\d$")
    precision_note: str = ""
    notes: str = ""
    figures: Figures = Figures()

    @model_validator(mode="after")
    def _default_is_offered(self) -> Target:
        if self.default_precision not in self.precisions:
            raise ValueError(f"default_precision {self.default_precision} is not among precisions")
        if isinstance(self.qdq, dict) and set(self.qdq) != set(self.backends):
            raise ValueError("qdq must name a rule set for each of the backends")
        return self

    def rules(self, backend: str) -> str:
        """Name of the Q/DQ rule set for one of the backends."""
        return self.qdq if isinstance(self.qdq, str) else self.qdq[backend]


def target_names() -> list[str]:
    """Names of the targets that there are, sorted."""
    return data_names(PACKAGE)


def load_target(name: str) -> Target:
    """The target called `name`; raises UnknownNameError with the closest names."""
    return load_data("target", PACKAGE, name, Target)
