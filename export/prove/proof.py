"""Does a rewritten model still compute the same? The judgment behind every pass.

Floating-point outputs are compared by the largest difference over the largest value. In class maps and 8-bit
images a difference in the last bit moves a few places to a neighbor, so there the mean difference counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.core.errors import ParityError, first_line
from edgedeploy.core.parity import compare
from edgedeploy.export.graph_pass import GraphPass
from edgedeploy.graphs.evaluate import (
    IN_MEMORY,
    MOST_ELEMENTS,
    Evaluator,
    Feeds,
    NotRunnable,
    Outputs,
    feed_sets,
)
from edgedeploy.graphs.structure import largest_tensor, without_weights
from edgedeploy.graphs.surgeon import RANDOM
from edgedeploy.graphs.weights import bytes_of_all

# Mean over a discrete output, of its largest value: ties and roundings that fell otherwise.
DISCRETE_TOLERANCE = 1e-3
# Outputs below this, say of a sigmoid at -20, hold rounding and little else; errors are measured by it.
QUIET = 1e-3
# Some networks amplify rounding: reordering a sum in the first layer moves their output by more than any
# promise. What the last bit of the input does to the output is beyond proof, so a few times that is granted,
# within reason.
GRANT, GRANT_LIMIT = 4.0, 100.0
LAST_BIT = {"float32": 2.0**-23, "float16": 2.0**-10}
# Where ONNX Runtime has no float16 kernel it computes in float32, and between two such operators it rounds
# nothing, its optimizations on or off (tests/export/test_half.py). A constant that a pass computes is rounded
# to float16, as the graph says. So the two differ by a last bit where the graphs are the same: in onnx's own
# reference evaluator their difference is 0.
HALF_LIMIT = 2.0**-10


class Refuted(Exception):
    """The rewritten model is not what its pass promised; the message says how.

    `feeds` are inputs of the model before on which that shows, where it takes inputs to see it.
    """

    def __init__(self, message: str, feeds: Feeds | None = None) -> None:
        super().__init__(message)
        self.feeds = feeds


@dataclass(frozen=True)
class Verdict:
    """A rewrite that keeps its promise.

    Attributes:
        proof: of the rewritten model.
        error: largest difference over all outputs and feeds, see `difference`.
        granted: the error that was let pass although it is beyond the promise, because the last bit of the
            input moves the output as far; None where the promise was kept to the letter.
    """

    proof: Proof
    error: float
    granted: float | None = None


@dataclass
class Proof:
    """The feeds on which a model is watched and what it answers; moves on with every accepted rewrite."""

    model: onnx.ModelProto
    pairs: list[tuple[Feeds, Outputs]] = field(default_factory=list)
    checks: bool = True  # whether the ONNX checker accepts the model we start from

    @staticmethod
    def of(model: onnx.ModelProto, seeds: int, feeds: Sequence[Feeds]) -> Proof:
        """Run the model on the given feeds and `seeds` draws; raises NotRunnable where neither works."""
        if RANDOM & set(_operators(model.graph)):
            raise NotRunnable("it draws random numbers")
        elements, name = largest_tensor(model)
        if elements > MOST_ELEMENTS:
            raise NotRunnable(f"tensor '{name}' has {elements:.1e} elements")
        evaluator = Evaluator(model)
        pairs: list[tuple[Feeds, Outputs]] = [(feed, evaluator(feed)) for feed in feeds]
        try:
            pairs.extend(feed_sets(evaluator, seeds))
        except NotRunnable:
            if not pairs:  # some models run only on what they were made for: then that must do
                raise
        return Proof(model, pairs, _passes_checker(model))

    def advance(self, candidate: onnx.ModelProto, step: GraphPass, options: Any) -> Verdict:
        """The proof of the candidate; raises Refuted if it breaks the promise of `step`."""
        if self.checks and not _passes_checker(candidate):
            raise Refuted(f"the ONNX checker refuses the result: {_checker_says(candidate)}")
        worst, shown = 0.0, self.pairs[0][0]
        pairs: list[tuple[Feeds, Outputs]] = []
        try:
            after = Evaluator(candidate)
            for (before, _), (feeds, expected) in zip(self.pairs, self._expected(step, options), strict=True):
                outputs = after(feeds)
                try:
                    error = difference(expected, outputs, step.atol)
                except Refuted as reason:
                    raise Refuted(str(reason), before) from None
                if not error <= worst:
                    worst, shown = error, before
                pairs.append((feeds, outputs))
        except NotRunnable as reason:
            raise Refuted(f"ONNX Runtime cannot run the result: {reason}", shown) from reason
        granted = None if worst <= step.atol else self._granted(step.atol)
        if granted is not None and not worst <= granted:
            said = f"an output differs by {worst:.1e} of its largest value; promised {step.atol:.0e}"
            raise Refuted(said, shown)
        return Verdict(Proof(candidate, pairs, self.checks), worst, granted)

    def _granted(self, atol: float) -> float:
        """What a promise of `atol` may come to in a network as sensitive to rounding as this one."""
        rng, before, worst = np.random.default_rng(0), Evaluator(self.model), 0.0
        for feeds, outputs in self.pairs:
            nudged = {name: _nudged(value, rng) for name, value in feeds.items()}
            worst = max(worst, difference(outputs, before(nudged), 0.0))
        half = any(getattr(value, "dtype", None) == np.float16 for value in self.pairs[0][1].values())
        return min(GRANT * worst, max(GRANT_LIMIT * atol, HALF_LIMIT if half else 0.0))

    def _expected(self, step: GraphPass, options: Any) -> Iterator[tuple[Feeds, Outputs]]:
        """Feeds for the model after the step, and what it must answer."""
        before = Evaluator(self.model) if step.old_feeds is not None else None
        for old_feeds, old_outputs in self.pairs:
            feeds, outputs = old_feeds, old_outputs
            if step.old_feeds is not None and before is not None:
                feeds = step.new_feeds(dict(feeds), options) if step.new_feeds is not None else feeds
                outputs = before(step.old_feeds(dict(feeds), options))
            if step.old_outputs is not None:
                outputs = step.old_outputs(dict(outputs), options)
            yield feeds, outputs


def _nudged(value: Any, rng: np.random.Generator) -> Any:
    """A floating-point input with the last bit of every value changed; others as they are."""
    bit = LAST_BIT.get(getattr(getattr(value, "dtype", None), "name", ""))
    if bit is None:
        return value
    return value * (1 + bit * rng.choice((-1, 1), value.shape)).astype(value.dtype)


def difference(expected: Mapping[str, Any], got: Mapping[str, Any], atol: float) -> float:
    """The largest error over all outputs; raises Refuted where names, dtypes or shapes differ."""
    if set(expected) != set(got):
        raise Refuted(f"the outputs are {', '.join(sorted(got))}; expected {', '.join(sorted(expected))}")
    worst = 0.0
    for name, reference in expected.items():
        candidate = got[name]
        if _is_sequence(reference) and _is_sequence(candidate):
            items, others = (
                {f"{name}[{number}]": item for number, item in enumerate(sequence)}
                for sequence in (reference, candidate)
            )
            worst = max(worst, difference(items, others, atol))
            continue
        kind = getattr(getattr(reference, "dtype", None), "kind", "")
        if kind not in ("f", "i", "u", "b"):
            if not np.array_equal(np.asarray(reference, object), np.asarray(candidate, object)):
                raise Refuted(f"output '{name}' differs")
        elif reference.dtype != candidate.dtype:
            raise Refuted(f"output '{name}' is {candidate.dtype} and was {reference.dtype}")
        elif kind == "f":
            try:
                parity = compare(reference, candidate)
                peak = float(np.abs(reference[np.isfinite(reference)]).max(initial=0.0))
                worst = max(worst, parity.max_abs / max(peak, QUIET))
            except ParityError as error:
                raise Refuted(f"output '{name}': {error}") from error
        else:
            moved = _discrete(name, reference, candidate)
            worst = max(worst, 0.0 if moved <= max(atol, DISCRETE_TOLERANCE) else moved)
    return worst


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list)


def _discrete(name: str, reference: NDArray[Any], candidate: NDArray[Any]) -> float:
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        raise Refuted(f"output '{name}' is {candidate.dtype}{list(candidate.shape)}")
    if reference.size == 0:
        return 0.0
    apart = np.abs(reference.astype(np.float64) - candidate.astype(np.float64))
    return float(apart.mean() / max(1.0, np.abs(reference.astype(np.float64)).max()))


def _passes_checker(model: onnx.ModelProto) -> bool:
    return not _checker_says(model)


def _checker_says(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(model if bytes_of_all(model) < IN_MEMORY else without_weights(model))
    except (onnx.checker.ValidationError, ValueError) as error:
        return first_line(error)
    return ""


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _operators(attribute.g)
