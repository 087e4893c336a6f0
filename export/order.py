"""The order of the default passes, which run in rounds until none fires.

No pass is listed here: each pass names its phase and its predecessors in the phase.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgedeploy.core.errors import PluginError, closest
from edgedeploy.export.graph_pass import PASSES, GraphPass

PHASES = {
    "clean": "fewer nodes, known shapes",
    "recognize": "decompositions become the operators that they stand for",
    "fold": "arithmetic into weights",
    "merge": "operators in parallel or in sequence become one",
    "pack": "weights in fewer bytes; last, because other passes read weights",
}


def in_order(passes: Iterable[GraphPass]) -> tuple[str, ...]:
    """Names by phase; within a phase after all passes in `after`, otherwise alphabetical.

    Raises ValueError for an unknown phase and for a cycle of `after`.
    """
    order: list[str] = []
    waiting = sorted(passes, key=lambda item: item.name)
    for item in waiting:
        if item.phase not in PHASES:
            raise ValueError(f"pass {item.name} is in phase '{item.phase}', not in {', '.join(PHASES)}")
    for phase in PHASES:
        members = [item for item in waiting if item.phase == phase]
        while members:
            names = {item.name for item in members}
            ready = next((item for item in members if not names.intersection(item.after)), None)
            if ready is None:
                raise ValueError(f"passes wait for each other: {', '.join(sorted(names))}")
            order.append(ready.name)
            members.remove(ready)
    return tuple(order)


def default_passes(*phases: str) -> tuple[str, ...]:
    """Names of the passes with a phase, or with one of the given phases, in order.

    Raises PluginError for a pass whose `after` names no pass.
    """
    passes, names = PASSES.all(), PASSES.names()
    for item in passes:
        for unknown in sorted(set(item.after).difference(names)):
            fault = f"names '{unknown}' in `after`, which is no pass"
            raise PluginError(item.rewrite.__module__, fault, closest(unknown, names))
    return in_order(item for item in passes if item.phase and (not phases or item.phase in phases))


DEFAULT_PASSES = default_passes()
