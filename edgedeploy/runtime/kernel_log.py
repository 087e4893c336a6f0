"""The kernels of a TensorRT engine, from the builder's verbose log.

An engine cannot be opened without its GPU. The last "Layers:" block of the log names every kernel and its
tensors: it shows the precision of each convolution and the memory traffic on the build machine.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgedeploy.core.details import EngineDetails

ITEM_BYTES = {
    "Float": 4.0, "Half": 2.0, "BFloat16": 2.0, "FP8": 1.0, "FP4": 0.5, "E8M0": 1.0,
    "Int64": 8.0, "Int32": 4.0, "Int8": 1.0, "UInt8": 1.0, "Int4": 0.5, "Bool": 1.0,
}  # fmt: skip
CONVOLUTION = "correlation"  # the compiler's name of a convolution

_TENSOR = re.compile(
    r"\{ Name: (?P<name>[^{}]*?), Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)"
)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|$|\s)")


@dataclass(frozen=True)
class KernelTensor:
    """An input or output of a kernel; a dimension of -1 is dynamic."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> float | None:
        """Size in memory; None for a dynamic dimension or an unknown type."""
        if self.dtype not in ITEM_BYTES or any(dim < 0 for dim in self.shape):
            return None
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Kernel:
    """One kernel: the compiler's name and type, its tensors, and the ONNX nodes that it computes."""

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    onnx_layers: tuple[str, ...]

    @property
    def bytes(self) -> float | None:
        """Bytes read and written, without constants; None if a size is unknown."""
        return _total(tensor.bytes for tensor in (*self.inputs, *self.outputs))


def parse_kernels(messages: Iterable[str]) -> list[Kernel]:
    """The kernels of the last "Layers:" block in a builder's messages; empty without such a block."""
    lines = "\n".join(messages).splitlines()
    starts = [index for index, line in enumerate(lines) if line.strip() == "Layers:"]
    kernels = []
    for line in lines[starts[-1] + 1 :] if starts else ():
        if not line.startswith("Name: "):
            break
        kernels.append(_kernel(line))
    return kernels


def summarize(kernels: list[Kernel]) -> EngineDetails:
    """Number of kernels, memory traffic in MB (1e6 bytes), and types of the convolutions of an engine."""
    moved = _total(kernel.bytes for kernel in kernels)
    convolutions = Counter(
        f"{kernel.inputs[0].dtype}->{kernel.outputs[0].dtype}"
        for kernel in kernels
        if kernel.kind == CONVOLUTION and kernel.inputs and kernel.outputs
    )
    return EngineDetails(
        kernels=len(kernels),
        mb_moved=None if moved is None else round(moved / 1e6, 3),
        convolutions=dict(sorted(convolutions.items())),
    )


def _total(sizes: Iterable[float | None]) -> float | None:
    known = list(sizes)
    return None if None in known else float(sum(size for size in known if size is not None))


def _kernel(line: str) -> Kernel:
    name, _, rest = line.removeprefix("Name: ").partition(", LayerType: ")
    kind, _, rest = rest.partition(", Inputs: [")
    inputs, _, rest = rest.partition("], Constants: [")
    _, _, rest = rest.partition("], Outputs: [")
    outputs, _, rest = rest.partition("], TacticName: ")
    _, _, metadata = rest.partition("Metadata: ")
    return Kernel(name, kind, _tensors(inputs), _tensors(outputs), tuple(_ONNX_LAYER.findall(metadata)))


def _tensors(text: str) -> tuple[KernelTensor, ...]:
    return tuple(
        KernelTensor(
            match["name"], tuple(int(dim) for dim in match["dims"].split(",") if dim), match["dtype"]
        )
        for match in _TENSOR.finditer(text)
    )
