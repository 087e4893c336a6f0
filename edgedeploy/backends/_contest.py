"""The contest between backends of one target: who computes the right thing, and how fast.

Right means: as ONNX Runtime does with its optimisations off, on random inputs in the task's range. Fast is
measured in turns in one process, so that whatever else the machine does hits all candidates alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgedeploy.backends._onnx_file import is_quantised
from edgedeploy.backends.base import BACKENDS, Array, OpenOptions, Session, Shapes
from edgedeploy.backends.feeds import random_feeds
from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import EXACT, Parity, compare_all
from edgedeploy.core.spec import Artifact

FP32_MAX_REL = 1e-3
# Signal to noise against the same graph computed exactly, in dB. bf16 has 8 bits of mantissa, fp16 11, and
# depth costs some of them; int8 runtimes differ in rounding only, which depth turns into flipped steps.
MIN_SQNR_DB = {"bf16": 25.0, "fp16": 40.0, "int8": 20.0}
SEEDS = 2
WARMUP, ROUNDS, SECONDS = 2, 15, 3.0
INFINITE_DB = 300.0  # JSON has no infinity

Verdicts = dict[str, dict[str, Any]]


def check(
    artifact: Artifact, sessions: Mapping[str, Session], verdicts: Verdicts, shapes: Shapes
) -> list[str]:
    """Names of the sessions that agree with the reference; all of them where no reference is installed.

    Writes what it found of each into `verdicts`. Raises ParityError if none agrees.
    """
    reference = BACKENDS.get("onnxruntime")
    worst = dict.fromkeys(sessions, EXACT)
    if reference.why_not():
        verdicts.update(
            {n: {"backend": n, "parity": f"not checked: {reference.why_not()}"} for n in sessions}
        )
        return list(sessions)
    plain = OpenOptions(shapes=shapes, optimise=False, provider="cpu")
    with reference.open(artifact, plain) as exact:
        for seed in range(SEEDS):
            feeds = random_feeds(artifact, shapes, seed)
            expected = exact(feeds)
            for name, session in sessions.items():
                worst[name] = worst[name].worse(compare_all(expected, session(feeds)))
    for name, parity in worst.items():
        figures = {"max_rel": parity.max_rel, "sqnr_db": min(parity.sqnr_db, INFINITE_DB)}
        verdicts[name] = {"backend": name, **figures, "verdict": f"wrong results: {_figures(parity)}"}
    precision = "int8" if is_quantised(artifact) else artifact.precision
    passed = [name for name, parity in worst.items() if agrees(parity, precision)]
    if not passed:
        found = "; ".join(f"{name} {_figures(parity)}" for name, parity in worst.items())
        raise ParityError(
            f"no backend computes what {artifact.path} says: {found}", "build with --precision fp32"
        )
    return passed


def agrees(parity: Parity, precision: str) -> bool:
    """Whether a runtime computes what the exact one does: FP32_MAX_REL for fp32, else MIN_SQNR_DB."""
    if precision in MIN_SQNR_DB:
        return parity.sqnr_db >= MIN_SQNR_DB[precision]
    return parity.max_rel <= FP32_MAX_REL


def interleaved_ms(sessions: Mapping[str, Session], feeds: Mapping[str, Array]) -> dict[str, list[float]]:
    """Milliseconds of each run, the sessions taking turns: up to ROUNDS or SECONDS, at least three rounds."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    begin = time.perf_counter()
    for turn in range(WARMUP + ROUNDS):
        for name, session in sessions.items():
            start = time.perf_counter()
            session(feeds)
            times[name].append((time.perf_counter() - start) * 1e3)
        if turn >= WARMUP + 2 and time.perf_counter() - begin > SECONDS:
            break
    return {name: values[WARMUP:] for name, values in times.items()}


def _figures(parity: Parity) -> str:
    return f"max rel {parity.max_rel:.1e}, SQNR {parity.sqnr_db:.1f} dB"
