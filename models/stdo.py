"""Shared by the five backbones of STDO: registration and bicubic upscaling.

Li et al., Toward High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data Overfitting,
CVPR 2023. RGB in [0, 1], (N, 3, H, W) -> (N, 3, scale H, scale W), not clipped.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from edgedeploy.core.spec import TaskSpec
from edgedeploy.models.registry import register_model
from edgedeploy.models.variants import Register, register_scales

PAPER = (
    "Li et al., Toward High-Quality and Efficient Video Super-Resolution via Spatial-Temporal Data "
    "Overfitting, CVPR 2023"
)
# Height and width of a patch of 1080p: a twentieth by a tenth of the frame, at x4 a tenth by a fifth.
PATCH = {2: (54, 48), 3: (36, 32), 4: (54, 48)}
UNREAD = ("sub_mean.", "add_mean.")  # convolutions of the released networks that their forward never calls


def register(*, margin: int, unread: tuple[str, ...] = ()) -> Register:
    """Decorator of a builder NAME(scale): registers NAME_x2, NAME_x3 and NAME_x4.

    Args:
        margin: radius of the receptive field, in low-resolution pixels.
        unread: prefixes of keys in published checkpoints that no output depends on.
    """

    def at(scale: int) -> Register:
        options = {"scale": scale, "color": "rgb", "margin": margin, "mean": [0.0] * 3, "std": [255.0] * 3}
        return register_model(
            input_shape=(1, 3, *PATCH[scale]),
            task=TaskSpec(name="super-resolution", options=options),
            outputs=("sr",),
            paper=PAPER,
            training_only=unread,
        )

    return register_scales(at)


def upscale_bicubic(x: Tensor, scale: int) -> Tensor:
    """Bicubic interpolation of PyTorch: a = -0.75, corners not aligned."""
    return F.interpolate(x, scale_factor=float(scale), mode="bicubic", align_corners=False)
