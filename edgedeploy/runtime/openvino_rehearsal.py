"""Compile a quantized model of somebody else's in a child process first, because OpenVINO may crash on it.

Seen with OpenVINO 2026.4: DDRNet-23-slim from ONNX Runtime's `quantize_static` with its default uint8
activations ends the process by a segmentation fault, which cannot be caught, but can be had elsewhere.
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
    """Raise BuildError if compiling ends the process; does nothing for models whose Q/DQ is known to be fine.

    Errors that OpenVINO reports by itself are left for the real attempt.
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
