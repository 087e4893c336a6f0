"""Say which extra is missing before an import fails half way."""

from __future__ import annotations

from importlib.util import find_spec

from edgedeploy.core.errors import MissingDependencyError

EXPORT = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxruntime": "onnxruntime",  # every capture and pass is proved in it
}


def require_export() -> None:
    """Raise MissingDependencyError unless all that capture and graph surgery need is installed."""
    missing = [package for module, package in EXPORT.items() if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"exporting needs {', '.join(missing)}",
            'pip install "edgedeploy[export]" (on a device, build from an .onnx made elsewhere)',
        )
