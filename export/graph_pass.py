"""The contract of a graph pass: a named rewrite, its numeric promise, and models on which it fires.

A pass is a function decorated with `@graph_pass`. With `ops` the driver calls it for every node of those
types; without `ops` once with the whole graph. It returns the number of rewrites (usually 0 or 1), or
raises `Skip` with the reason. The driver repeats sweeps until nothing applies and collects the reasons;
`runner.py` verifies the outputs afterward. Passes compute in float64 and store in the graph's dtype. A pass
with a `phase` runs by default, after the passes of that phase that `after` names (see `export/order.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.core.errors import PassError
from edgedeploy.core.registry import Registry
from edgedeploy.graphs.surgeon import Graph, Node, Skip, is_standard, tidy

__all__ = [
    "EVERY",
    "PASSES",
    "Applied",
    "CandidateFault",
    "Feeds",
    "GraphPass",
    "Skip",
    "Skipped",
    "graph_pass",
]

MAX_SWEEPS = 100  # a sweep visits every candidate, so real chains need two or three
EVERY = ("*",)  # as `ops`: every node of ONNX's own domain is a candidate
Feeds = dict[str, NDArray[Any]]
Cases = Callable[[np.random.Generator], Sequence[onnx.ModelProto | tuple[onnx.ModelProto, Any]]]


@dataclass(frozen=True)
class Skipped:
    """A candidate that was not rewritten, and the reason."""

    node: str
    op: str
    reason: str


class CandidateFault(Exception):
    """A rewrite raised another exception than Skip at the node `candidate`."""

    def __init__(self, candidate: Skipped) -> None:
        super().__init__(candidate.reason)
        self.candidate = candidate


@dataclass(frozen=True)
class Applied:
    """Result of a pass on a graph.

    Attributes:
        hits: number of rewrites.
        skipped: candidates that were not rewritten, and the reasons.
        rewritten: (node, operator) of the candidate of every hit, in order; empty for whole-graph passes.
    """

    hits: int
    skipped: tuple[Skipped, ...] = ()
    rewritten: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class GraphPass:
    """A registered pass. The fields after `rewrite` are the arguments of the decorator `graph_pass`.

    Attributes:
        rewrite: `(graph, node[, options]) -> hits` with `ops`, `(graph[, options]) -> hits` without.
        name: file name with dashes.
        atol: the promise: largest difference of any output relative to that output's largest absolute value.
        cases: models, or (model, options), on which the pass must fire at least once each; the generator
            draws their weights.
        ops: operator types of the candidates; empty for whole-graph passes.
        options: frozen dataclass of the pass's options, or None.
        new_feeds: for passes that change what inputs mean: feeds of the graph before -> the nearest after.
        old_feeds: inverse of `new_feeds`: new feeds -> equivalent feeds of the graph before.
        old_outputs: for passes that change what outputs mean: outputs before -> outputs expected after.
        phase: a phase of `export/order.py` for a pass that runs by default; "" for one that users ask for.
        after: names of passes that run before this one in its phase.
        prepare: called with the graph before every sweep, e.g. to infer shapes.
    """

    rewrite: Callable[..., int]
    name: str
    atol: float
    cases: Cases
    ops: tuple[str, ...] = ()
    options: type[Any] | None = None
    new_feeds: Callable[[Feeds, Any], Feeds] | None = None
    old_feeds: Callable[[Feeds, Any], Feeds] | None = None
    old_outputs: Callable[[Feeds, Any], Feeds] | None = None
    phase: str = ""
    after: tuple[str, ...] = ()
    prepare: Callable[[Graph], None] | None = None

    @property
    def keeps_contract(self) -> bool:
        """Whether inputs and outputs keep their meaning; a pass that changes it must not run twice."""
        return self.old_feeds is None and self.old_outputs is None

    def examples(self, rng: np.random.Generator) -> list[tuple[onnx.ModelProto, Any]]:
        """The cases, each with its options (None where the pass has none)."""
        default = self.options() if self.options is not None else None
        return [case if isinstance(case, tuple) else (case, default) for case in self.cases(rng)]

    def apply(
        self,
        graph: Graph,
        options: Any = None,
        limit: int | None = None,
        refused: Mapping[str, str] | None = None,
    ) -> Applied:
        """Rewrite in place until nothing applies, at most `limit` times (for bisection).

        A pass without `ops` runs once, without a limit. `refused` maps names of nodes that are not
        rewritten to reasons. Raises PassError for a pass without a fixed point, and CandidateFault where a
        rewrite raises.
        """
        extra: tuple[Any, ...] = ()
        if self.options is not None:
            extra = (options if options is not None else self.options(),)
        if not self.ops:
            return self._once(graph, extra)
        most = limit if limit is not None else float("inf")
        rewritten: list[tuple[str, str]] = []
        skipped: dict[str, Skipped] = {}
        for _ in range(MAX_SWEEPS):
            before = len(rewritten)
            if self.prepare is not None:
                self.prepare(graph)
            self._sweep(graph, extra, most, refused or {}, rewritten, skipped)
            hits = len(rewritten)
            if hits > before:
                tidy(graph)
            if hits in (before, most) or hits > most:
                alive = {node.name for node in graph.nodes}
                left = tuple(s for s in skipped.values() if s.node in alive)
                return Applied(hits, left, tuple(rewritten))
        raise PassError(
            f"{self.name} still fires after {MAX_SWEEPS} sweeps: its rewrite leaves a candidate behind",
            f'go on without it: optimize.skip=["{self.name}"]',
        )

    def _once(self, graph: Graph, extra: tuple[Any, ...]) -> Applied:
        """A pass without candidates."""
        try:
            hits = self.rewrite(graph, *extra)
        except Skip as skip:
            return Applied(0, (Skipped("", self.name, str(skip)),))
        if hits:
            tidy(graph)
        return Applied(hits)

    def _sweep(
        self,
        graph: Graph,
        extra: tuple[Any, ...],
        most: float,
        refused: Mapping[str, str],
        rewritten: list[tuple[str, str]],
        skipped: dict[str, Skipped],
    ) -> None:
        """Visit every candidate once; append to `rewritten` and `skipped`."""
        for node in self._candidates(graph):
            if len(rewritten) >= most:
                return
            if not node.outputs:  # an earlier rewrite of this sweep detached the node
                continue
            name, op = node.name, node.op
            if name in refused:
                skipped[name] = Skipped(name, op, refused[name])
                continue
            try:
                rewritten += [(name, op)] * self.rewrite(graph, node, *extra)
                skipped.pop(name, None)
            except Skip as skip:
                skipped[name] = Skipped(name, op, str(skip))
            except Exception as error:
                reason = f"it raised {type(error).__name__}: {error}"
                raise CandidateFault(Skipped(name, op, reason)) from error

    def _candidates(self, graph: Graph) -> list[Node]:
        every = self.ops == EVERY
        return [node for node in graph.nodes if (every or node.op in self.ops) and is_standard(node)]


PASSES: Registry[GraphPass] = Registry("pass", "edgedeploy.export.passes")
graph_pass = PASSES.decorator(GraphPass)
