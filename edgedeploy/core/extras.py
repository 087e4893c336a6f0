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
DATA = {"cv2": "opencv-python"}

TRAIN = {
    "torch": "torch",
    "lightning_fabric": "lightning-fabric",
    "cv2": "opencv-python",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "shapely": "shapely",  # views of text
    "pyclipper": "pyclipper",
}


def require_train() -> None:
    """Raise MissingDependencyError unless what training needs is here."""
    missing = [package for module, package in TRAIN.items() if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(f"this needs {', '.join(missing)}", 'pip install "edgedeploy[train]"')


# Graph passes, calibration and builds.
ONNX = {module: package for module, package in EXPORT.items() if module not in ("torch", "onnxscript")}


def require_onnx(*, data: bool = False) -> None:
    """Raise MissingDependencyError unless what deploying an .onnx needs, and reading `data`, is here."""
    _require({**ONNX, **(DATA if data else {})}, "onnx,cpu" if data else "onnx")


def require_export(*, data: bool = False) -> None:
    """Raise MissingDependencyError unless what capture and graph passes need, and reading `data`, is here."""
    _require({**EXPORT, **(DATA if data else {})}, "export,cpu" if data else "export")


def _require(wanted: dict[str, str], extra: str) -> None:
    missing = [package for module, package in wanted.items() if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"this needs {', '.join(missing)}",
            f'pip install "edgedeploy[{extra}]" (on a device, run what was built elsewhere)',
        )
