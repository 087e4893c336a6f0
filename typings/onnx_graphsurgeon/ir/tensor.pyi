from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.node import Node

# bfloat16 and float8, which numpy lacks, are numbers of onnx.TensorProto.DataType; None is unknown.
DType: TypeAlias = np.dtype[Any] | type[np.generic] | int | None
# A name or None is a dynamic dimension.
Dim: TypeAlias = int | str | None

class Tensor:
    name: str  # "" for an optional input or output that is not given
    inputs: list[Node]  # the node that computes it, if any
    outputs: list[Node]  # one entry for every input that reads it
    dtype: DType
    shape: Sequence[Dim] | None  # None where the rank is unknown

    def is_empty(self) -> bool: ...
    def to_constant(self, values: NDArray[Any]) -> Constant: ...

class Variable(Tensor):
    def __init__(self, name: str, dtype: DType = None, shape: Sequence[Dim] | None = None) -> None: ...
    @staticmethod
    def empty() -> Variable: ...

class Constant(Tensor):
    shape: Sequence[int]
    _values: NDArray[Any] | LazyValues | SparseValues

    def __init__(self, name: str, values: NDArray[Any]) -> None: ...
    @property
    def values(self) -> NDArray[Any]: ...

class LazyValues:
    def __init__(self, tensor: onnx.TensorProto) -> None: ...

class SparseValues(LazyValues): ...
