"""The kernel list of a TensorRT engine, read from the builder's verbose log.

An engine cannot be opened without its GPU, but the log's last "Layers:" block names every kernel with its
tensors, so what precision a convolution really runs in, and how much memory moves, is known where the
engine is built.
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
CONVOLUTION = "correlation"  # what the compiler calls it

_TENSOR = re.compile(
    r"\{ Name: (?P<name>[^{}]*?), Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)"
)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|$|\s)")


@dataclass(frozen=True)
class KernelTensor:
    """An input or output of a kernel; a size of -1 is known only at run time."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> float | None:
        """Size in memory, None where a dimension or the type is not known."""
        if self.dtype not in ITEM_BYTES or any(dim < 0 for dim in self.shape):
            return None
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Kernel:
    """One kernel: the compiler's name and type for it, its tensors, and the ONNX nodes that it came from."""

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    onnx_layers: tuple[str, ...]

    @property
    def bytes(self) -> float | None:
        """Bytes read and written besides constants, None where a size is not known."""
        sizes = [tensor.bytes for tensor in (*self.inputs, *self.outputs)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


def parse_kernels(messages: Iterable[str]) -> list[Kernel]:
    """The kernels of the last "Layers:" block among a builder's messages; empty if there is none."""
    lines = "\n".join(messages).splitlines()
    starts = [index for index, line in enumerate(lines) if line.strip() == "Layers:"]
    kernels = []
    for line in lines[starts[-1] + 1 :] if starts else ():
        if not line.startswith("Name: "):
            break
        kernels.append(_kernel(line))
    return kernels


def summarize(kernels: list[Kernel]) -> EngineDetails:
    """How many kernels an engine has, what they move, and the types of its convolutions."""
    sizes = [kernel.bytes for kernel in kernels]
    known = [size for size in sizes if size is not None]
    convolutions = Counter(
        f"{kernel.inputs[0].dtype}->{kernel.outputs[0].dtype}"
        for kernel in kernels
        if kernel.kind == CONVOLUTION and kernel.inputs and kernel.outputs
    )
    return EngineDetails(
        kernels=len(kernels),
        mb_moved=round(sum(known) / 1e6, 3) if len(known) == len(sizes) else None,
        convolutions=dict(sorted(convolutions.items())),
    )


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
