"""Compile a quantized model of another tool in a child process first, because OpenVINO may crash on it.

OpenVINO 2026.4 ends the process by a segmentation fault, which cannot be caught, for DDRNet-23-slim from ONNX
Runtime's `quantize_static` with its default uint8 activations.
"""

from __future__ import annotations

import subprocess
import sys

from edgedeploy.core.errors import BuildError
from edgedeploy.core.spec import Artifact
from edgedeploy.runtime.onnx_file import is_quantized

COMMAND = (
    "-c",
    "import sys; from edgedeploy.backends.openvino import compile_model; compile_model(*sys.argv[1:])",
)


def rehearse(artifact: Artifact, hint: str) -> None:
    """Raise BuildError if compiling ends the process; does nothing for models quantized by edgedeploy.

    The compilation that follows reports OpenVINO's own errors.
    """
    ours = artifact.backend == "openvino" or any(step.name == "quantize" for step in artifact.history)
    if ours or not is_quantized(artifact):
        return
    child = subprocess.run(
        [sys.executable, *COMMAND, str(artifact.path), hint], check=False, capture_output=True
    )
    if child.returncode not in (0, 1):  # 1 is a Python exception
        raise BuildError(
            f"openvino crashes while it compiles {artifact.path} (exit status {child.returncode})",
            "use another runtime, e.g. onnxruntime, or quantize the float model with edgedeploy quantize",
        )
