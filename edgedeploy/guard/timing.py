"""How long candidates take: measured in turns where they run here, else a lower bound from published figures.

time >= max(bytes moved / bandwidth, 2 MACs / peak). Bytes are those of the kernel list where an engine has
one (TensorRT-RTX compiles without a GPU), else of the layers. A report names an estimate as such.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from edgedeploy.backend import BACKENDS, Feeds, OpenOptions, Session
from edgedeploy.bench.measure import Rounds, time_interleaved
from edgedeploy.core.job import Job
from edgedeploy.core.spec import Artifact
from edgedeploy.guard.candidates import NOT_HERE, Built, Candidate, built_of, run_shapes
from edgedeploy.runtime.feeds import random_feeds

Sessions = dict[str, Session]
# Takes the open sessions; returns the candidates not to time, each with the reason.
Check = Callable[[Sessions], Mapping[str, Exception]]


def time_candidates(
    candidates: Sequence[Candidate], job: Job, rounds: Rounds, check: Check | None = None
) -> list[Candidate]:
    """Time the candidates that run here in one interleaved run.

    Returns the candidates in the same order. One that fails to open or to run, or that `check` rejects, is
    refused; one whose device is absent has the reason in `not_here`.
    """
    refused: dict[str, Exception] = {}
    with ExitStack() as stack:
        sessions: Sessions = {}
        feeds: dict[str, Feeds] = {}
        for candidate in built_of(candidates):
            if candidate.not_here:
                continue
            try:
                shapes = run_shapes(candidate.artifact, job)
                session = BACKENDS.get(candidate.backend).open(candidate.artifact, OpenOptions(shapes=shapes))
                stack.enter_context(session)
                feeds[candidate.name] = random_feeds(candidate.artifact, shapes)
                session(feeds[candidate.name])
                sessions[candidate.name] = session
            except NOT_HERE as error:
                candidate.not_here = str(error)
            except Exception as error:  # noqa: BLE001  the contest goes on without this candidate
                refused[candidate.name] = error
        if check is not None and sessions:
            refused |= check(sessions)
        chosen = {name: session for name, session in sessions.items() if name not in refused}
        results = {r.name: r for r in time_interleaved(chosen, feeds, rounds)} if chosen else {}
    for candidate in built_of(candidates):
        candidate.timing = results.get(candidate.name)
    return [
        c.refused(refused[c.name]) if isinstance(c, Built) and c.name in refused else c for c in candidates
    ]


def estimate(candidates: Sequence[Built], artifact: Artifact, job: Job) -> None:
    """Fill in `estimated_ms` of candidates whose device is absent, where the target has figures."""
    absent = [candidate for candidate in candidates if candidate.not_here]
    figures = job.target.figures
    if not absent or figures.memory_gb_per_s is None:
        return
    import onnx

    from edgedeploy.calibration.mix.costs import layer_costs, peak, roofline_ms

    costs = layer_costs(onnx.load(artifact.path), run_shapes(artifact, job))
    macs = sum(cost.macs for cost in costs.values())
    for candidate in absent:
        moved = candidate.artifact.details.engine.mb_moved
        rate = peak(figures, candidate.precision)
        if moved and rate:
            memory = moved * 1e6 / ((figures.memory_gb_per_s or math.inf) * 1e9)
            candidate.estimated_ms = max(memory, 2 * macs / (rate * 1e12)) * 1e3
        else:
            candidate.estimated_ms = roofline_ms(costs, figures, candidate.precision)
