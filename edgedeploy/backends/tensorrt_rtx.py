"""TensorRT for RTX: builds engines for any GeForce, RTX or DGX Spark GPU, also on a machine without one."""

from __future__ import annotations

from typing import Any

from edgedeploy.backend import BACKENDS
from edgedeploy.core.errors import BuildError
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import Target
from edgedeploy.runtime.tensorrt_common import TensorRtBackend

INT8_NOTE = (
    "TensorRT-RTX runs INT8 convolutions with FP32 outputs and requantizes in kernels of their own: "
    "more kernels and about twice the memory traffic of FP16. Compare `engine` with that of an fp16 build."
)


@BACKENDS.register
class TensorRtRtx(TensorRtBackend):
    name = "tensorrt-rtx"
    package = "tensorrt_rtx"
    extra = "edgedeploy[rtx]"

    def _aim(self, sdk: Any, config: Any, target: Target) -> str:
        if target.compute_capability is None:
            raise BuildError(f"target {target.name} is no NVIDIA GPU", "choose a GPU, e.g. --target rtx-4090")
        known = sdk.ComputeCapability.__members__
        name = "SM" + target.compute_capability.replace(".", "")
        if name not in known:
            offered = ", ".join(sorted(n for n in known if n.startswith("SM")))
            raise BuildError(
                f"{self.name} does not build for compute capability {target.compute_capability} ({offered})",
                "build on the device itself with its TensorRT",
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[name], 0)
        return target.compute_capability

    def _notes(self, artifact: Artifact) -> dict[str, str]:
        return {"note": INT8_NOTE} if artifact.precision == "int8" else {}
