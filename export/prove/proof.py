"""Proof that a rewritten model computes the same outputs; every pass is judged by it.

The tolerance is `of_pass` of core/parity.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from edgedeploy.core.errors import ParityError, first_line
from edgedeploy.core.parity import Difference, difference, last_bit_sensitivity, of_pass
from edgedeploy.export.graph_pass import GraphPass
from edgedeploy.graphs.feeds import MOST_ELEMENTS, feed_sets
from edgedeploy.graphs.run import IN_MEMORY, Evaluator, Feeds, NotRunnable, Outputs
from edgedeploy.graphs.structure import largest_tensor, without_weights
from edgedeploy.graphs.surgeon import RANDOM
from edgedeploy.graphs.weights import bytes_of_all

# Smaller outputs, say of a sigmoid at -20, are mostly rounding: errors are divided by at least this value.
QUIET = 1e-3


class Refuted(Exception):
    """The rewritten model breaks the promise of its pass; the message is the reason.

    `feeds` are inputs of the model before the pass that show the difference; None where no feeds are needed.
    """

    def __init__(self, message: str, feeds: Feeds | None = None) -> None:
        super().__init__(message)
        self.feeds = feeds


@dataclass(frozen=True)
class Verdict:
    """A rewrite that keeps its promise.

    Attributes:
        proof: of the rewritten model.
        error: largest error of any floating-point output over its largest value.
        granted: the limit that replaced the promise, because the last bit of the input alone moves the
            outputs beyond the promise; None where the promise was kept.
    """

    proof: Proof
    error: float
    granted: float | None = None


@dataclass
class Proof:
    """A model's outputs on fixed feeds; every accepted rewrite returns the next proof."""

    model: onnx.ModelProto
    pairs: list[tuple[Feeds, Outputs]] = field(default_factory=list)
    checks: bool = True  # whether the ONNX checker accepts the original model

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
            if not pairs:  # some models run only on real inputs
                raise
        return Proof(model, pairs, not _checker_fault(model))

    def advance(self, candidate: onnx.ModelProto, step: GraphPass, options: Any) -> Verdict:
        """The proof of the candidate; raises Refuted if it breaks the promise of `step`."""
        if self.checks and (fault := _checker_fault(candidate)):
            raise Refuted(f"the ONNX checker refuses the result: {fault}")
        differences: list[Difference] = []
        pairs: list[tuple[Feeds, Outputs]] = []
        try:
            after = Evaluator(candidate)
            for feeds, expected in self._expected(step, options):
                outputs = after(feeds)
                differences.append(output_difference(expected, outputs))
                pairs.append((feeds, outputs))
        except NotRunnable as reason:
            message = f"ONNX Runtime cannot run the result: {reason}"
            raise Refuted(message, self.pairs[len(differences)][0]) from reason
        except Refuted as reason:
            raise Refuted(str(reason), self.pairs[len(differences)][0]) from None
        tolerance, granted = of_pass(step.atol, self._is_half()), None
        if not all(map(tolerance.accepts, differences)):
            tolerance = tolerance.granting(last_bit_sensitivity(Evaluator(self.model), self.pairs, QUIET))
            granted = tolerance.max_rel
        for (feeds, _), one in zip(self.pairs, differences, strict=True):
            if not tolerance.accepts(one):
                raise Refuted(f"{_described(one)}; promised {step.atol:.0e}", feeds)
        return Verdict(Proof(candidate, pairs, self.checks), max(one.max_rel for one in differences), granted)

    def _is_half(self) -> bool:
        return any(getattr(value, "dtype", None) == np.float16 for value in self.pairs[0][1].values())

    def _expected(self, step: GraphPass, options: Any) -> Iterator[tuple[Feeds, Outputs]]:
        """(feeds, expected outputs) of the model after the step."""
        before = Evaluator(self.model) if step.old_feeds is not None else None
        for known in self.pairs:
            feeds, outputs = known
            if step.old_feeds is not None and before is not None:
                feeds = step.new_feeds(dict(feeds), options) if step.new_feeds is not None else feeds
                outputs = before(step.old_feeds(dict(feeds), options))
            if step.old_outputs is not None:
                outputs = step.old_outputs(dict(outputs), options)
            yield feeds, outputs


def output_difference(expected: Outputs, got: Outputs) -> Difference:
    """Worst difference over all outputs; raises Refuted where names, dtypes or shapes differ."""
    if set(expected) != set(got):
        raise Refuted(f"the outputs are {', '.join(sorted(got))}; expected {', '.join(sorted(expected))}")
    for name, reference in expected.items():
        before, after = _dtype(reference), _dtype(got[name])
        if before != after:
            raise Refuted(f"output '{name}' is {after} and was {before}")
    try:
        return difference(expected, got, QUIET)
    except ParityError as error:
        raise Refuted(f"the outputs differ: {error}") from error


def _dtype(value: Any) -> Any:
    """The dtype of a tensor, or those of a sequence; None for values of another kind."""
    return [_dtype(item) for item in value] if isinstance(value, list) else getattr(value, "dtype", None)


def _described(one: Difference) -> str:
    if one.unequal and not one.max_rel:
        return f"an output differs by {one.unequal:.1%} of its elements"
    return f"an output differs by {one.max_rel:.1e} of its largest value"


def _checker_fault(model: onnx.ModelProto) -> str:
    """First line of the ONNX checker's error, "" for a valid model."""
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
