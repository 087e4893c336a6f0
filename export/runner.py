"""Run graph passes, prove each as it runs, and revert the rewrites that break their promise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from edgedeploy.core.spec import Step
from edgedeploy.export.graph_pass import PASSES, Applied, CandidateFault, GraphPass, Skipped
from edgedeploy.export.match.shapes import infer
from edgedeploy.export.order import DEFAULT_PASSES
from edgedeploy.export.prove.proof import Proof, Refuted, Verdict
from edgedeploy.export.prove.trial import Offence, Trial
from edgedeploy.graphs.edit import copy_model
from edgedeploy.graphs.opset import opset_of
from edgedeploy.graphs.run import Feeds, NotRunnable
from edgedeploy.graphs.surgeon import Graph, dump, load

# Before it, Add and Mul broadcast by attributes, and BatchNormalization trained unless told otherwise.
OLDEST_OPSET = 7
MAX_ROUNDS = 8  # two or three is usual; the bound is for passes that undo each other
MAX_OFFENCES = 8  # of one pass in one round: one with more is wrong as a whole


@dataclass(frozen=True)
class PassStep:
    """One pass that fired in one round.

    Attributes:
        name: of the pass.
        hits: rewrites made.
        milliseconds: rewriting and proving.
        error: largest difference relative to the output's largest value; None if not verified or reverted.
        nodes_before, nodes_after: of the graph; equal if reverted.
        reverted: whether the whole pass was reverted, for `reason`.
        granted: the limit beyond the promise, see `proof.Verdict`.
        offences: rewrites that were reverted one by one; the others stay unless `reverted`.
    """

    name: str
    hits: int
    milliseconds: float
    error: float | None
    nodes_before: int
    nodes_after: int
    reverted: bool = False
    reason: str = ""
    granted: float | None = None
    offences: tuple[Offence, ...] = ()


@dataclass(frozen=True)
class OptimizeResult:
    """Result of a list of passes.

    Attributes:
        model: the rewritten model, or the one given.
        steps: passes that fired, in order.
        skipped: (pass, candidate and reason) of the last attempt, for `--explain`.
        not_run: reason why no pass was run, or "".
        verified: whether every step was proved.
    """

    model: onnx.ModelProto
    steps: tuple[PassStep, ...] = ()
    skipped: tuple[tuple[str, Skipped], ...] = ()
    not_run: str = ""
    verified: bool = True

    @property
    def reverted(self) -> tuple[PassStep, ...]:
        """The steps of which nothing was kept."""
        return tuple(step for step in self.steps if step.reverted)

    @property
    def offences(self) -> tuple[Offence, ...]:
        """The reverted rewrites, of reverted and of accepted passes."""
        return tuple(offence for step in self.steps for offence in step.offences)

    def then(self, later: OptimizeResult) -> OptimizeResult:
        """This result joined with the result of passes that ran on its model later."""
        skipped = {**dict.fromkeys(self.skipped), **dict.fromkeys(later.skipped)}
        return replace(later, steps=(*self.steps, *later.steps), skipped=tuple(skipped))

    def history(self) -> tuple[Step, ...]:
        """The accepted steps as entries of an artifact's history."""
        return tuple(
            Step(name=s.name, hits=s.hits, milliseconds=s.milliseconds, error=s.error, granted=s.granted)
            for s in self.steps
            if not s.reverted
        )

    def problems(self) -> list[str]:
        """Messages for people, one line each."""
        found = [self.not_run] if self.not_run else []
        found += [f"{step.name} was reverted: {step.reason}" for step in self.reverted]
        for step in self.steps:
            if not step.reverted:
                found += [f"{o.name} was reverted at node '{o.node}': {o.reason}" for o in step.offences]
            if step.granted is not None:
                found.append(
                    f"{step.name} moved an output by {step.error:.1e}, beyond its promise; the last bit of "
                    f"the input moves it as far, so up to {step.granted:.1e} was granted"
                )
        return found


def optimize(
    model: onnx.ModelProto,
    passes: Sequence[str | GraphPass] = DEFAULT_PASSES,
    *,
    verify: bool = True,
    seeds: int = 2,
    feeds: Sequence[Feeds] = (),
    options: Mapping[str, Any] | None = None,
) -> OptimizeResult:
    """Apply passes in rounds until none fires; passes that change inputs or outputs run once.

    Args:
        model: is not changed.
        passes: names or passes.
        verify: prove each pass in ONNX Runtime on `seeds` random draws (several sizes where dynamic) and on
            `feeds`, real inputs. Where a pass errs beyond its promise, raises, or leaves an invalid graph,
            the responsible rewrite is found, reverted and recorded with a small model that shows the error. A
            pass without such a rewrite is reverted as a whole and not tried again.
        options: per pass name, an object of that pass's type of options.

    A model that ONNX Runtime or the graph library cannot read is returned unchanged, with the reason in
    `not_run`. Raises UnknownNameError for an unknown pass.
    """
    opset = opset_of(model)
    if opset < OLDEST_OPSET and not verify:
        return OptimizeResult(
            model, not_run=f"opset {opset} is older than {OLDEST_OPSET} and nothing is verified"
        )
    chosen = [PASSES.get(entry) if isinstance(entry, str) else entry for entry in passes]
    try:
        proof = Proof.of(model, seeds, feeds) if verify else None
        start = copy_model(model)  # passes rename tensors in place
        graph = load(start)
    except NotRunnable as reason:
        return OptimizeResult(
            model, not_run=f"ONNX Runtime cannot run the model, so nothing proves it: {reason}"
        )
    except Exception as error:  # noqa: BLE001  the graph library fails in many ways
        return OptimizeResult(model, not_run=f"graph surgery cannot read the model: {error}")
    return _Run(start, graph, proof, options or {}).rounds(model, chosen)


class _Run:
    """One call of `optimize`: the current graph, and the record of its passes.

    One graph serves all passes. It becomes a model only for the proof. After a pass that leaves the graph in
    an unknown state, the graph is read again from the last proved model; without proof, the accepted passes
    run again from the start.
    """

    def __init__(
        self, model: onnx.ModelProto, graph: Graph, proof: Proof | None, options: Mapping[str, Any]
    ) -> None:
        self.model, self.proof, self.options = model, proof, options
        self.graph: Graph | None = graph
        self.steps: list[PassStep] = []
        self.skipped: dict[str, tuple[Skipped, ...]] = {}
        self.refused: dict[str, dict[str, str]] = {}
        self.banned: set[str] = set()
        self.accepted: list[tuple[GraphPass, Any, dict[str, str]]] = []
        self.stale = True  # whether shapes must be inferred again

    def rounds(self, original: onnx.ModelProto, passes: Sequence[GraphPass]) -> OptimizeResult:
        """All passes in order, again and again until none fires."""
        for number in range(MAX_ROUNDS):
            active = [p for p in passes if p.name not in self.banned and (p.keeps_contract or number == 0)]
            if not any(step.prepare is infer for step in active):
                self._infer()
            fired = [step.name for step in active if self._try(step)]
            if not fired:
                break
        skipped = tuple((name, entry) for name, entries in self.skipped.items() for entry in entries)
        verified = self.proof is not None
        if not self.accepted:
            return OptimizeResult(original, tuple(self.steps), skipped, verified=verified)
        self._infer()
        model = _with_metadata(dump(self._current()), original)
        return OptimizeResult(model, tuple(self.steps), skipped, verified=verified)

    def _infer(self) -> None:
        if self.stale:
            infer(self._current())
            self.stale = False

    def _current(self) -> Graph:
        if self.graph is None:
            self.graph = load(self.model)
            if self.proof is None:
                for step, options, refused in self.accepted:
                    if step.prepare is None:
                        infer(self.graph)
                    step.apply(self.graph, options, refused=refused)
        return self.graph

    def _try(self, step: GraphPass) -> bool:
        """Run one pass; returns whether it changed the model."""
        started = time.perf_counter()
        options = self.options.get(step.name)
        if options is None and step.options is not None:
            options = step.options()
        refused = self.refused.setdefault(step.name, {})
        nodes = len(self._current().nodes)
        offences: list[Offence] = []
        entry = PassStep(step.name, 0, 0.0, None, nodes, nodes)
        while True:
            outcome = self._attempt(step, options, refused)
            if isinstance(outcome, Offence):
                offences.append(outcome)
                if outcome.node and outcome.node not in refused and len(offences) <= MAX_OFFENCES:
                    refused[outcome.node] = f"its rewrite was reverted: {outcome.reason}"
                    continue
            entry = replace(
                entry, milliseconds=(time.perf_counter() - started) * 1e3, offences=tuple(offences)
            )
            if isinstance(outcome, tuple):
                applied, verdict = outcome
                if verdict is not None:
                    entry = replace(entry, error=verdict.error, granted=verdict.granted)
                self.accepted.append((step, options, dict(refused)))
                self.stale = step.prepare is not infer
                self.steps.append(replace(entry, hits=applied.hits, nodes_after=len(self._current().nodes)))
                return True
            if offences:
                self.banned.add(step.name)
                self.steps.append(
                    replace(entry, hits=len(offences), reverted=True, reason=offences[0].reason)
                )
            return False

    def _attempt(
        self, step: GraphPass, options: Any, refused: Mapping[str, str]
    ) -> tuple[Applied, Verdict | None] | Offence | None:
        """Rewrites of one pass and their proof, or the rewrite that failed; None where it did not fire."""
        graph, self.graph = self._current(), None  # in an unknown state if the pass raises
        try:
            applied = step.apply(graph, options, refused=refused)
            self.skipped[step.name] = applied.skipped
            if not applied.hits:
                self.graph = graph
                return None
            if self.proof is None:
                self.graph = graph
                return applied, None
            candidate = dump(graph)
        except CandidateFault as fault:
            return Offence(step.name, fault.candidate.node, fault.candidate.op, fault.candidate.reason)
        except Exception as failure:  # noqa: BLE001
            return Offence(step.name, "", "", f"it raised {type(failure).__name__}: {failure}")
        try:
            verdict = self.proof.advance(candidate, step, options)
        except Refuted as reason:
            return Trial(self.model, step, options, refused).offence(self.proof, applied, reason)
        self.model, self.proof, self.graph = candidate, verdict.proof, graph
        return applied, verdict


def _with_metadata(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Copy the fields that the graph does not carry from the original model."""
    model.metadata_props.extend(original.metadata_props)
    model.doc_string, model.domain = original.doc_string, original.domain
    model.model_version = original.model_version
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    model.graph.metadata_props.extend(original.graph.metadata_props)
    names = {value.name for value in model.graph.value_info} | {t.name for t in model.graph.initializer}
    annotations = original.graph.quantization_annotation
    model.graph.quantization_annotation.extend(a for a in annotations if a.tensor_name in names)
    known = {value.name: value for value in (*original.graph.input, *original.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in known:
            value.doc_string = known[value.name].doc_string
            value.type.denotation = known[value.name].type.denotation
            value.metadata_props.extend(known[value.name].metadata_props)
    return model
