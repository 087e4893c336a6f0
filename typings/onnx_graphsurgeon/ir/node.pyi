from collections.abc import Iterator, Sequence
from typing import Any

from onnx_graphsurgeon.ir.graph import Graph
from onnx_graphsurgeon.ir.tensor import Tensor

class Node:
    op: str
    name: str
    attrs: dict[str, Any]
    domain: str | None
    # The library's lists keep `Tensor.inputs` and `Tensor.outputs` up to date; assignment copies into them.
    @property
    def inputs(self) -> list[Tensor]: ...
    @inputs.setter
    def inputs(self, tensors: Sequence[Tensor]) -> None: ...
    @property
    def outputs(self) -> list[Tensor]: ...
    @outputs.setter
    def outputs(self, tensors: Sequence[Tensor]) -> None: ...
    def __init__(
        self,
        op: str,
        name: str,
        attrs: dict[str, Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        domain: str | None = None,
    ) -> None: ...
    def subgraphs(self, recursive: bool = False) -> Iterator[Graph]: ...
    def copy(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Node: ...
