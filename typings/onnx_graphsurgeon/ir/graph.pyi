from collections.abc import Mapping, Sequence

import onnx
from onnx_graphsurgeon.ir.function import Function
from onnx_graphsurgeon.ir.node import Node
from onnx_graphsurgeon.ir.tensor import Tensor

class Graph:
    name: str
    nodes: list[Node]
    inputs: list[Tensor]
    outputs: list[Tensor]
    opset: int
    ir_version: int
    import_domains: Sequence[onnx.OperatorSetIdProto]
    functions: list[Function]

    def __init__(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        opset: int,
        import_domains: Sequence[onnx.OperatorSetIdProto],
        ir_version: int,
    ) -> None: ...
    def tensors(self) -> Mapping[str, Tensor]: ...
    def cleanup(self, *, remove_unused_graph_inputs: bool) -> Graph: ...
