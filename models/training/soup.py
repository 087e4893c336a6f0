"""A soup: the mean of the weights of networks trained from one start.

Uniform, or greedy: an ingredient stays only where the metric does not fall. Wortsman et al., Model soups:
averaging weights of multiple fine-tuned models improves accuracy without increasing inference time, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edgedeploy.core.errors import UsageError
from edgedeploy.models.state_file import State, read_description, read_state, write_state

Score = Callable[[State], float]


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Mean of every floating-point entry, in float64; counters are the first's. Raises UsageError."""
    first = states[0]
    for number, other in enumerate(states[1:], 2):
        differing = [k for k in first.keys() | other.keys() if _shape(first, k) != _shape(other, k)]
        if differing:
            raise UsageError(
                f"ingredient {number} has another {sorted(differing)[0]} than the first",
                "a soup takes weights of one model with the same options",
            )
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def cook(paths: Sequence[Path], out: Path, score: Score | None = None) -> list[tuple[Path, bool, float]]:
    """Write the soup of these files; returns (file, whether the soup holds it, score of the soup with it).

    With `score`, larger is better: ingredients are tried best first and kept where the score of the soup does
    not fall. Without it the soup holds all, with scores nan.
    """
    if len(paths) < 2:
        raise UsageError("a soup needs two files of weights at least", "name several runs' best.safetensors")
    states = {path: read_state(path) for path in paths}
    if score is None:
        write_state(out, mean_state(list(states.values())), read_description(paths[0]))
        return [(path, True, float("nan")) for path in paths]
    alone = {path: score(state) for path, state in states.items()}
    order = sorted(paths, key=lambda path: -alone[path])
    kept, best, tried = [order[0]], alone[order[0]], [(order[0], True, alone[order[0]])]
    for path in order[1:]:
        value = score(mean_state([states[entry] for entry in [*kept, path]]))
        keep = value >= best
        if keep:
            kept.append(path)
            best = value
        tried.append((path, keep, value))
    write_state(out, mean_state([states[path] for path in kept]), read_description(kept[0]))
    return tried


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
