"""Start a network from another one's weights: a trunk trained on another task, its own heads fresh."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.state_file import read_state


def initialise_from(network: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy every entry of the file at `path` whose name and shape `network` has; gives their names.

    Raises UsageError where less than half of the network's values would come from it, ArtifactError for a
    damaged file.
    """
    found, own = read_state(path), network.state_dict()
    taken = {k: v for k, v in found.items() if k in own and own[k].shape == v.shape}
    share = sum(v.numel() for v in taken.values()) / max(1, sum(v.numel() for v in own.values()))
    if share < 0.5:
        raise UsageError(
            f"{path} gives {share:.0%} of the network's weights",
            "name weights of the same trunk in initialise",
        )
    network.load_state_dict({**own, **taken})
    return tuple(taken)
