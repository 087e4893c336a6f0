import onnx
from onnx_graphsurgeon.ir.tensor import Tensor

class OnnxImporter:
    @staticmethod
    def import_tensor(onnx_tensor: onnx.ValueInfoProto) -> Tensor: ...
