"""TensorRT for data center GPUs, desktops and Jetson: builds for the GPU of this machine.

UNVERIFIED: `tensorrt_rtx` runs the same builder code, but no GPU has built with this flavor yet.
"""

from __future__ import annotations

from typing import Any

from edgedeploy.backend import BACKENDS
from edgedeploy.core.errors import BuildError
from edgedeploy.core.target import Target
from edgedeploy.runtime import cuda as _cuda
from edgedeploy.runtime.tensorrt_common import TensorRtBackend


@BACKENDS.register
class TensorRt(TensorRtBackend):
    name = "tensorrt"
    package = "tensorrt"
    extra = "edgedeploy[tensorrt]"

    def install_hint(self) -> str:
        # On a Jetson the wheel from pip is the wrong one.
        return (
            f"{super().install_hint()}; on Jetson it comes with JetPack: a venv with --system-site-packages"
        )

    def _aim(self, sdk: Any, config: Any, target: Target) -> str:  # noqa: ARG002
        here = _cuda.compute_capability()
        if target.compute_capability not in (None, here):
            raise BuildError(
                f"target {target.name} has compute capability {target.compute_capability}, "
                f"the GPU here {here}",
                "run this build on the device",
            )
        return here
