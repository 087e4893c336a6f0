"""From PyTorch to optimized ONNX; `edgedeploy.export(...)` calls the verb."""

from edgedeploy.core.callable_package import make_callable

make_callable(__name__)
