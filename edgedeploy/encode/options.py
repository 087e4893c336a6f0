"""Options of an encoding, validated before work begins."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgedeploy import __version__
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import sha256_file, sha256_text

PRECISIONS = ("auto", "fp32", "fp16", "int8")
# 1080p enlarged by 2 in the paper's grid, 10 rows of 20: 54 x 48 pixels.
PATCH = (54, 48)
WIDEST_HALO = 8  # pixels beyond it cost as much as nearer ones and contribute little, even to a deep network
JOINT_CHUNKS = 4


@dataclass(frozen=True)
class EncodeOptions:
    """Everything that determines a bundle.

    Attributes:
        model: network of the zoo, from RGB to RGB.
        scale: its factor, as a check; None: no check.
        chunks: number of networks, one per group of patches of similar difficulty; with `joint`, number of
            groups for sampling.
        joint: train one network for all patches, mostly on the difficult ones.
        steps: updates of each network and of the general network, from which the others start.
        batch: patches per update.
        seed: of weights and batches.
        crf, preset: of x264: quality of the low-resolution video (0 to 51, lower is better), and effort.
        precision: of the stored weights; auto is fp16 unless it costs more than 0.05 dB.
        patch: height and width of a low-resolution patch.
        halo: context pixels around a patch; None: the receptive field, at most WIDEST_HALO.
        limit: frames to encode; None: all.
    """

    model: str = "stdo_espcn_x2"
    scale: int | None = None
    chunks: int | None = None
    joint: bool = False
    steps: int = 2000
    batch: int = 16
    seed: int = 0
    crf: float = 18.0
    preset: str = "medium"
    precision: str = "auto"
    patch: tuple[int, int] = PATCH
    halo: int | None = None
    limit: int | None = None
    network: dict[str, Any] = field(init=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UnknownNameError or UsageError for invalid options."""
        from edgedeploy.models.registry import MODELS

        task = MODELS.get(self.model).task
        if task.name != "super-resolution" or task.options.get("color") != "rgb":
            raise UsageError(
                f"{self.model} does not enlarge RGB", "take one of stdo_*; see edgedeploy models"
            )
        self.network.update(task.options)
        if self.scale not in (None, self.network["scale"]):
            raise UsageError(
                f"{self.model} enlarges by {self.network['scale']}, not {self.scale}",
                f"--model {self.model.rpartition('_')[0]}_x{self.scale}",
            )
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{self.precision}'", f"known: {', '.join(PRECISIONS)}")
        limits = {
            "steps": (self.steps, 0, 10**7),
            "chunks": (self.groups, 1, 64),
            "batch": (self.batch, 1, 1024),
            "crf": (self.crf, 0, 51),
            "halo": (self.halo or 0, 0, 64),
            "limit": (self.limit or 1, 1, 1 << 24),
            "patch": (min(self.patch), 8, 16384),
        }
        for name, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise UsageError(f"{name} is {value}", f"give --{name} {least} to {most}")

    @property
    def factor(self) -> int:
        """The network's scale."""
        return int(self.network["scale"])

    @property
    def groups(self) -> int:
        """The number of chunks."""
        return self.chunks if self.chunks is not None else JOINT_CHUNKS if self.joint else 2

    @property
    def surroundings(self) -> int:
        """The halo in pixels."""
        return self.halo if self.halo is not None else min(int(self.network["margin"]), WIDEST_HALO)

    def key(self, source: Path) -> str:
        """Digest of everything that determines the bundle of `source`."""
        return sha256_text(__version__, json.dumps(asdict(self), sort_keys=True), sha256_file(source))
