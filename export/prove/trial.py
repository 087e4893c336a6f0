"""One pass on one model: rewrite, prove, and find the rewrite that breaks the promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx

from edgedeploy.core.errors import first_line
from edgedeploy.export.graph_pass import Applied, CandidateFault, GraphPass
from edgedeploy.export.prove.proof import Proof, Refuted, Verdict
from edgedeploy.export.prove.repro import Repro, minimal
from edgedeploy.graphs.run import Feeds
from edgedeploy.graphs.surgeon import Graph, dump, load

F = TypeVar("F", bound=Exception)


@dataclass(frozen=True)
class Offence:
    """A rewrite that was reverted.

    Attributes:
        name: of the pass.
        node, op: candidate of the rewrite; "" for a whole-graph pass.
        reason: how the rewrite breaks the promise.
        repro: the smallest models that show the difference; None where the pass raised.
    """

    name: str
    node: str
    op: str
    reason: str
    repro: Repro | None = None


@dataclass(frozen=True)
class Trial:
    """One pass with its options on one model."""

    model: onnx.ModelProto
    step: GraphPass
    options: Any
    refused: Mapping[str, str]

    def rewritten(self, limit: int | None = None) -> tuple[Graph, Applied]:
        """(new graph, result) after the first `limit` rewrites."""
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
        """The rewrite that breaks the promise, once all of `applied` together were refuted with `reason`."""
        if not self.step.ops:
            return self._whole(reason)
        try:
            count, seen = first_failure(lambda n: self.proved(proof, n), applied.hits, Refuted)
        except (LookupError, CandidateFault):
            return self._whole(reason)
        before, after = dump(self.rewritten(count - 1)[0]), dump(self.rewritten(count)[0])
        node, op = applied.rewritten[count - 1]
        return Offence(self.step.name, node, op, str(seen), self._repro(before, after, seen.feeds, node))

    def _whole(self, reason: Refuted) -> Offence:
        after = dump(self.rewritten()[0])
        return Offence(self.step.name, "", "", str(reason), self._repro(self.model, after, reason.feeds, ""))

    def _repro(
        self, before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds | None, node: str
    ) -> Repro | None:
        try:
            return minimal(before, after, feeds or {}, self.step, node)
        except Exception as error:  # noqa: BLE001  a failed repro must not stop the run
            return Repro(before, after, dict(feeds or {}), f"the whole model: {first_line(error)}")


def first_failure(attempt: Callable[[int], object], hits: int, failure: type[F]) -> tuple[int, F]:
    """(n, exception): `attempt(n)` raises `failure` and `attempt(n - 1)` does not, found by bisection.

    `attempt(hits)` has raised and `attempt(0)` does not. Where several n fit, one is returned. Raises
    LookupError where `attempt(hits)` does not raise a second time.
    """
    good, bad = 0, hits
    seen: F | None = None
    while bad - good > 1 or seen is None:
        middle = (good + bad) // 2 if bad - good > 1 else bad
        try:
            attempt(middle)
        except failure as reason:
            bad, seen = middle, reason
        else:
            if middle == bad:  # the cause was outside the rewrites
                raise LookupError("it does not fail a second time")
            good = middle
    return bad, seen
