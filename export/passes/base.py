"""The contract of a graph pass: a named rewrite with a numeric promise and models that show it at work.

A pass is a function decorated with `@graph_pass`. With `ops` it is called once for every node of those types
and answers how many rewrites it made (usually 0 or 1), or raises `Skip` to say why not; without `ops` it is
called once with the whole graph. The driver here walks the graph to a fixed point and collects the reasons;
`runner.py` proves the numbers afterwards. Passes compute in float64 and store in the graph's own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.core.errors import PassError
from edgedeploy.core.registry import Registry
from edgedeploy.export.graph import Graph, Node, Skip, is_standard, tidy

__all__ = ["PASSES", "Applied", "Feeds", "GraphPass", "Skip", "Skipped", "graph_pass"]

MAX_SWEEPS = 100  # a sweep visits every candidate, so real chains need two or three
Feeds = dict[str, NDArray[Any]]
Cases = Callable[[np.random.Generator], Sequence[onnx.ModelProto | tuple[onnx.ModelProto, Any]]]


@dataclass(frozen=True)
class Skipped:
    """A candidate that was not rewritten, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Applied:
    """What a pass did to a graph."""

    hits: int
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class GraphPass:
    """A registered pass.

    Attributes:
        name: file name with dashes.
        rewrite: `(graph, node[, options]) -> hits` with `ops`, `(graph[, options]) -> hits` without.
        atol: the promise: largest difference of any output relative to that output's largest absolute value.
        cases: models, or (model, options), on which the pass must fire at least once each; their weights are
            drawn from the generator.
        ops: operator types of the candidates; empty for whole-graph passes.
        options_type: frozen dataclass of the pass's options, or None.
        new_feeds: for passes that change what inputs mean: feeds of the graph before -> the nearest after.
        old_feeds: its counterpart: new feeds -> equivalent feeds of the graph before.
        old_outputs: for passes that change what outputs mean: outputs before -> outputs expected after.
    """

    name: str
    rewrite: Callable[..., int]
    atol: float
    cases: Cases
    ops: tuple[str, ...] = ()
    options_type: type[Any] | None = None
    new_feeds: Callable[[Feeds, Any], Feeds] | None = None
    old_feeds: Callable[[Feeds, Any], Feeds] | None = None
    old_outputs: Callable[[Feeds, Any], Feeds] | None = None

    @property
    def keeps_contract(self) -> bool:
        """Whether the graph means the same to its user afterwards; if not, applying it twice is a mistake."""
        return self.old_feeds is None and self.old_outputs is None

    def examples(self, rng: np.random.Generator) -> list[tuple[onnx.ModelProto, Any]]:
        """The cases, each with its options (None where the pass has none)."""
        default = self.options_type() if self.options_type is not None else None
        return [case if isinstance(case, tuple) else (case, default) for case in self.cases(rng)]

    def apply(self, graph: Graph, options: Any = None, limit: int | None = None) -> Applied:
        """Rewrite in place until nothing more applies, or `limit` rewrites are made (for bisection).

        A pass without `ops` runs once, whatever the limit. Raises PassError for one that never comes to rest.
        """
        extra: tuple[Any, ...] = ()
        if self.options_type is not None:
            extra = (options if options is not None else self.options_type(),)
        if not self.ops:
            try:
                hits = self.rewrite(graph, *extra)
                tidy(graph)
                return Applied(hits)
            except Skip as skip:
                return Applied(0, (Skipped("", self.name, str(skip)),))
        hits = 0
        skipped: dict[str, Skipped] = {}
        for _ in range(MAX_SWEEPS):
            before = hits
            for node in [node for node in graph.nodes if node.op in self.ops and is_standard(node)]:
                if limit is not None and hits >= limit:
                    break
                if not _alive(node):  # an earlier rewrite of this sweep removed it
                    continue
                try:
                    hits += self.rewrite(graph, node, *extra)
                    skipped.pop(node.name, None)
                except Skip as skip:
                    skipped[node.name] = Skipped(node.name, node.op, str(skip))
            tidy(graph)
            if hits == before or (limit is not None and hits >= limit):
                alive = {node.name for node in graph.nodes}
                return Applied(hits, tuple(s for s in skipped.values() if s.node in alive))
        raise PassError(
            f"{self.name} still fires after {MAX_SWEEPS} sweeps: it does not undo what it looks for",
            f'go on without it: surgery.skip=["{self.name}"]',
        )


PASSES: Registry[GraphPass] = Registry(
    "pass", "edgedeploy.export.passes", skip=frozenset({"base", "samples"})
)


def graph_pass(
    name: str,
    *,
    atol: float,
    cases: Cases,
    ops: tuple[str, ...] = (),
    options: type[Any] | None = None,
    new_feeds: Callable[[Feeds, Any], Feeds] | None = None,
    old_feeds: Callable[[Feeds, Any], Feeds] | None = None,
    old_outputs: Callable[[Feeds, Any], Feeds] | None = None,
) -> Callable[[Callable[..., int]], GraphPass]:
    """Decorator that turns a rewrite function into a registered GraphPass; see there for the arguments."""

    def enter(rewrite: Callable[..., int]) -> GraphPass:
        return PASSES.register(name)(
            GraphPass(name, rewrite, atol, cases, ops, options, new_feeds, old_feeds, old_outputs)
        )

    return enter


def _alive(node: Node) -> bool:
    """Whether a node still computes something: rewrites detach what they replace by clearing its outputs."""
    return bool(node.outputs)
