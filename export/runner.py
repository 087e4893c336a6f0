"""Run graph passes, prove each one as it runs, and go on without those that break their promise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from edgedeploy.core.errors import PassError
from edgedeploy.core.spec import Step
from edgedeploy.export.evaluate import Feeds, NotRunnable
from edgedeploy.export.graph import Graph, dump, load
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.passes.base import PASSES, GraphPass, Skipped
from edgedeploy.export.proof import Proof, Refuted
from edgedeploy.export.shapes import infer_model

# Before it, Add and Mul broadcast by attributes, and BatchNormalization trained unless told otherwise.
OLDEST_OPSET = 7
MAX_ROUNDS = 8  # two or three is usual; the bound is for passes that undo each other


@dataclass(frozen=True)
class PassStep:
    """One pass that fired in one round.

    Attributes:
        name: of the pass.
        hits: rewrites made.
        milliseconds: rewriting and proving.
        error: largest difference relative to the output's largest value; None if not verified or reverted.
        nodes_before, nodes_after: of the graph; equal if reverted.
        reverted: whether the graph was put back; `reason` says why.
    """

    name: str
    hits: int
    milliseconds: float
    error: float | None
    nodes_before: int
    nodes_after: int
    reverted: bool = False
    reason: str = ""


@dataclass(frozen=True)
class OptimizeResult:
    """What came of a list of passes.

    Attributes:
        model: the rewritten model, or the one given.
        steps: passes that fired, in order.
        skipped: (pass, candidate and reason) of the last attempt, for `--explain`.
        left_alone: why no pass was run at all, or "".
        verified: whether every step was proved.
    """

    model: onnx.ModelProto
    steps: tuple[PassStep, ...] = ()
    skipped: tuple[tuple[str, Skipped], ...] = ()
    left_alone: str = ""
    verified: bool = True

    @property
    def reverted(self) -> tuple[PassStep, ...]:
        """The steps that were taken back."""
        return tuple(step for step in self.steps if step.reverted)

    def history(self) -> tuple[Step, ...]:
        """The accepted steps as entries of an artifact's history."""
        return tuple(
            Step(name=s.name, hits=s.hits, milliseconds=s.milliseconds, error=s.error)
            for s in self.steps
            if not s.reverted
        )


def optimize(
    model: onnx.ModelProto,
    passes: Sequence[str | GraphPass] = DEFAULT_PASSES,
    *,
    verify: bool = True,
    seeds: int = 2,
    feeds: Sequence[Feeds] = (),
    options: Mapping[str, Any] | None = None,
) -> OptimizeResult:
    """Apply passes in order, again and again until none fires; those that change the contract run once.

    Args:
        model: is not changed.
        passes: names or passes.
        verify: prove each pass in ONNX Runtime on `seeds` random draws (several sizes where dynamic) and on
            `feeds`, real inputs. A pass that errs beyond its promise, raises, or leaves an invalid graph is
            reverted, recorded and not tried again.
        options: per pass name, an object of that pass's options_type.

    A model that ONNX Runtime cannot run, or that graph surgery cannot carry, comes back as it was, with the
    reason in `left_alone`. Raises UnknownNameError for an unknown pass.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET and not verify:
        return OptimizeResult(
            model, left_alone=f"opset {opset} is older than {OLDEST_OPSET} and nothing is verified"
        )
    chosen = [PASSES.get(entry) if isinstance(entry, str) else entry for entry in passes]
    try:
        proof = Proof.of(model, seeds, feeds) if verify else None
        start = infer_model(model)
        load(start)
    except NotRunnable as reason:
        return OptimizeResult(
            model, left_alone=f"ONNX Runtime cannot run the model, so nothing proves it: {reason}"
        )
    except Exception as error:  # noqa: BLE001  the graph library fails in many ways
        return OptimizeResult(model, left_alone=f"graph surgery cannot read the model: {error}")
    return _Run(start, proof, options or {}).rounds(chosen)


class _Run:
    """One call of `optimize`: the model as far as it got, and what happened on the way."""

    def __init__(self, model: onnx.ModelProto, proof: Proof | None, options: Mapping[str, Any]) -> None:
        self.original, self.model, self.proof, self.options = model, model, proof, options
        self.steps: list[PassStep] = []
        self.skipped: dict[str, tuple[Skipped, ...]] = {}
        self.banned: set[str] = set()
        self.graph: Graph | None = None

    def rounds(self, passes: Sequence[GraphPass]) -> OptimizeResult:
        """All passes in order, again and again until none fires."""
        for number in range(MAX_ROUNDS):
            active = [p for p in passes if p.name not in self.banned and (p.keeps_contract or number == 0)]
            fired = [step.name for step in active if self._try(step)]
            if not fired:
                break
        model = self.model
        if model is not self.original:
            model = _with_metadata(model, self.original)
        skipped = tuple((name, entry) for name, entries in self.skipped.items() for entry in entries)
        return OptimizeResult(model, tuple(self.steps), skipped, verified=self.proof is not None)

    def _try(self, step: GraphPass) -> bool:
        """Run one pass; whether it changed the model."""
        started = time.perf_counter()
        options = self.options.get(step.name)
        if options is None and step.options_type is not None:
            options = step.options_type()
        before = len(self.model.graph.node)
        entry = PassStep(step.name, 0, 0.0, None, before, before)
        proof, error = self.proof, None
        try:
            graph = self.graph if self.graph is not None else load(self.model)
            self.graph = None  # in an unknown state if the pass raises
            applied = step.apply(graph, options)
            self.skipped[step.name] = applied.skipped
            if not applied.hits:
                self.graph = graph
                return False
            entry = replace(entry, hits=applied.hits)
            candidate = infer_model(dump(graph))
            if self.proof is not None:
                proof, error = self.proof.advance(candidate, step, options)
        except Refuted as reason:
            self._revert(entry, started, str(reason))
            return False
        except Exception as failure:  # noqa: BLE001
            fault = PassError(f"it raised {type(failure).__name__}: {failure}")
            self._revert(entry, started, str(fault))
            return False
        self.model, self.proof = candidate, proof
        took = (time.perf_counter() - started) * 1e3
        after = len(candidate.graph.node)
        self.steps.append(replace(entry, milliseconds=took, error=error, nodes_after=after))
        return True

    def _revert(self, entry: PassStep, started: float, reason: str) -> None:
        self.banned.add(entry.name)
        self.graph = None
        took = (time.perf_counter() - started) * 1e3
        self.steps.append(replace(entry, milliseconds=took, reverted=True, reason=reason))


def _with_metadata(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """What the graph does not carry, from the model it came from."""
    model.metadata_props.extend(original.metadata_props)
    model.doc_string, model.domain = original.doc_string, original.domain
    model.model_version = original.model_version
    return model
