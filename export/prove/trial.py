"""Try one pass on one model: rewrite, prove, and where the promise breaks find the rewrite that breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from edgedeploy.core.errors import first_line
from edgedeploy.export.graph_pass import Applied, CandidateFault, GraphPass
from edgedeploy.export.prove.bisect import first_failure
from edgedeploy.export.prove.proof import Proof, Refuted, Verdict
from edgedeploy.export.prove.repro import Repro, minimal
from edgedeploy.graphs.evaluate import Feeds
from edgedeploy.graphs.surgeon import Graph, dump, load


@dataclass(frozen=True)
class Offence:
    """A rewrite that was taken back.

    Attributes:
        name: of the pass.
        node, op: the candidate of the rewrite; "" where the pass works on the graph as a whole.
        reason: what it did.
        repro: the smallest models that show it; None where there is no result to compare.
    """

    name: str
    node: str
    op: str
    reason: str
    repro: Repro | None = None


@dataclass(frozen=True)
class Trial:
    """One pass with its options, on a model whose behavior is known."""

    model: onnx.ModelProto
    step: GraphPass
    options: Any
    refused: Mapping[str, str]

    def rewritten(self, limit: int | None = None) -> tuple[Graph, Applied]:
        """A fresh graph with the first `limit` rewrites made."""
        graph = load(self.model)
        return graph, self.step.apply(graph, self.options, limit, self.refused)

    def proved(self, proof: Proof, limit: int) -> tuple[onnx.ModelProto, Verdict | None]:
        """(model after `limit` rewrites, verdict); raises Refuted."""
        graph, applied = self.rewritten(limit)
        if not applied.hits:
            return self.model, None
        candidate = dump(graph)
        return candidate, proof.advance(candidate, self.step, self.options)

    def offence(self, proof: Proof, applied: Applied, reason: Refuted) -> Offence:
        """Who broke the promise when all of `applied` did; `reason` is what was seen then."""
        place, seen = applied.hits, reason
        if self.step.ops:
            try:
                place, found = first_failure(lambda n: self.proved(proof, n), applied.hits, Refuted)
            except (LookupError, CandidateFault):
                return self._whole(reason)
            seen = found if isinstance(found, Refuted) else reason
            before, after = dump(self.rewritten(place - 1)[0]), dump(self.rewritten(place)[0])
            node, op = applied.rewritten[place - 1]
            return Offence(self.step.name, node, op, str(seen), self._repro(before, after, seen.feeds, node))
        return self._whole(reason)

    def _whole(self, reason: Refuted) -> Offence:
        after = dump(self.rewritten()[0])
        return Offence(self.step.name, "", "", str(reason), self._repro(self.model, after, reason.feeds, ""))

    def _repro(
        self, before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds | None, node: str
    ) -> Repro | None:
        try:
            return minimal(before, after, feeds or {}, self.step, node)
        except Exception as error:  # noqa: BLE001  a repro is a help: its own failure must not stop the run
            return Repro(before, after, dict(feeds or {}), f"the whole model: {first_line(error)}")
