"""A device as data: backends, precisions, Q/DQ rules, peak rates. Each is a TOML file in targets/."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgedeploy.core.cpu import OVERRIDE, architecture, claimed_class, cpu_features
from edgedeploy.core.data_files import data_names, load_data
from edgedeploy.core.errors import DeviceError, UnknownNameError
from edgedeploy.core.spec import Precision

PACKAGE = "edgedeploy.targets"
THIS_CPU = "cpu"


class Figures(BaseModel):
    """Peak rates of a device for the roofline, dense (no sparsity); None where none is published.

    Attributes:
        fp32_tflops: of the CUDA cores; TF32 engines exceed it.
        fp16_tflops: of the tensor cores with FP16 accumulation; on GeForce half of it with FP32 accumulation.
        int8_tops: of the GPU, without DLA; dla_int8_tops: of all DLA cores together.
        memory_gb_per_s, memory_gb: bandwidth and size. l2_mb: second-level cache.
        sms, clock_ghz: multiprocessors and their clock. power_w: modes, or board power, in watts.
        unsure: names of the figures on which sources disagree; measure them on the device.
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


class CpuClass(BaseModel):
    """Properties of a class of CPUs.

    Attributes:
        architecture: "x86_64" or "aarch64".
        any_of: a CPU belongs to the class of highest rank of which it has one of these features.
        rank: order of the classes of one architecture; files for a class also run on classes above it.
        sums: accumulator of products in INT8 kernels; "int16-pairs" saturate (core/pair_sums.py).
        more: extra precision -> features, of which a CPU needs one.
        int8: accuracy and speed of INT8 there, in one line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    architecture: str
    any_of: tuple[str, ...] = ()
    rank: int
    sums: Literal["int32", "int16-pairs"] = "int32"
    more: dict[Precision, tuple[str, ...]] = Field(default_factory=dict)
    int8: str


class Target(BaseModel):
    """One file of targets/*.toml.

    Attributes:
        name: the file's name without suffix, e.g. "rtx-4090".
        title: name for people.
        backends: candidates, the most promising first; `build` takes the fastest that is installed and passes
            parity.
        precisions: all that the device runs; `build` makes `default_precision` by default.
        qdq: name of the Q/DQ rule set in calibration/rules for int8, or one for each backend.
        unsupported_ops: ONNX operators that a backend of the target lacks; the passes `lower-*` and
            `decompose-*` replace them.
        newest_opset: newest ONNX opset that the target's runtime reads; None: no limit for files of this
            package.
        compute_capability: CUDA SM such as "8.9", for engines that are built for one.
        precision_note: reason for the default precision.
        notes: hints for deployment.
        base: target that gives the fields that the file lacks.
        cpu: properties of a target that is a class of CPUs; None for other devices.
        cpu_class: name of the class of CPUs; the target `cpu` has the name of this machine's class.
        figures: peak rates.
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
    base: str = ""
    cpu: CpuClass | None = None
    cpu_class: str = ""
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
    """Names of all targets, sorted; "cpu" is this machine."""
    return sorted([THIS_CPU, *data_names(PACKAGE)])


def load_target(name: str) -> Target:
    """The target called `name`; raises UnknownNameError with the closest names.

    "cpu" is the class of this machine's CPU with the precisions that this CPU has.
    """
    if name == THIS_CPU:
        return this_cpu(claimed_class())
    if name not in data_names(PACKAGE):
        raise UnknownNameError("target", name, target_names())
    target = load_data("target", PACKAGE, name, Target, inherit="base")
    return target.model_copy(update={"cpu_class": name}) if target.cpu else target


def cpu_classes() -> list[Target]:
    """The targets that are classes of CPUs, by architecture and ascending rank."""
    found = [target for name in data_names(PACKAGE) if (target := load_target(name)).cpu is not None]
    return sorted(found, key=lambda t: (t.cpu.architecture, t.cpu.rank) if t.cpu else ("", 0))


@lru_cache(maxsize=8)
def this_cpu(claimed: str) -> Target:
    """Target of this machine's CPU, or of the class `claimed` for it.

    Raises UnknownNameError for an unknown class, DeviceError for an architecture without classes.
    """
    classes = {target.name: target for target in cpu_classes()}
    if claimed and claimed not in classes:
        raise UnknownNameError(f"class of CPU in {OVERRIDE}", claimed, sorted(classes))
    features = cpu_features()
    able = [t for t in classes.values() if t.cpu and t.cpu.architecture == architecture()]
    able = [t for t in able if t.cpu and (not t.cpu.any_of or features.intersection(t.cpu.any_of))]
    if not claimed and not able:
        raise DeviceError(f"{architecture()} CPUs have no target", f"deploy for one of: {', '.join(classes)}")
    found = classes[claimed] if claimed else able[-1]
    assert found.cpu is not None  # noqa: S101  `cpu_classes` has those alone
    has = found.cpu.more.items() if not claimed else ()
    more = [precision for precision, wanted in has if features.intersection(wanted)]
    precisions = tuple(p for p in get_args(Precision) if p in {*found.precisions, *more})
    title = f"This computer's CPU ({found.name})"
    return found.model_copy(update={"name": THIS_CPU, "title": title, "precisions": precisions})
