"""The contest between backends of one target: who computes the right thing, and how fast.

Right means: as ONNX Runtime does with its optimizations off, on real inputs where there are some, else on
random ones in the task's range; class maps and 8-bit images are judged by how many elements moved, and how
far. Fast is measured in turns in one process, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedeploy.backend import BACKENDS, Array, Feeds, OpenOptions, Session, Shapes
from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import EXACT, Parity, compare_all
from edgedeploy.core.spec import Artifact
from edgedeploy.runtime.feeds import random_feeds
from edgedeploy.runtime.onnx_file import is_quantized

FP32_MAX_REL = 1e-3
# Signal to noise against the same graph computed exactly, in dB. bf16 has 8 bits of mantissa, fp16 11, and
# depth costs some of them; int8 runtimes differ in rounding only, which depth turns into flipped steps.
MIN_SQNR_DB = {"bf16": 25.0, "fp16": 40.0, "int8": 20.0}
# Share of the elements of class maps and masks that may differ: ties, which rounding breaks in either way. In
# 8-bit outputs a small mean difference, of the largest value, will do as well: images differ in the last bit.
MAX_UNEQUAL = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.05, "int8": 0.1}
MAX_MOVED = {"fp32": 1e-3, "fp16": 5e-3, "bf16": 0.02, "int8": 0.03}
# Some networks amplify rounding. What the last bit of the input does to the exact output cannot be held
# against a runtime that sums in another order: a few times that is granted in fp32, up to these limits.
LAST_BIT, GRANT = 2.0**-23, 4.0
GRANT_MAX_REL, GRANT_MAX_UNEQUAL = 0.1, 0.05
SEEDS = 2
WARMUP, ROUNDS, SECONDS = 2, 15, 3.0
INFINITE_DB = 300.0  # JSON has no infinity

HINTS = {
    "fp32": "an .onnx runs without a build too: edgedeploy bench MODEL.onnx@onnxruntime",
    "int8": "quantize again with more images of --data, or build the model that it was quantized from",
}

Verdicts = dict[str, dict[str, Any]]


def check(
    artifact: Artifact,
    sessions: Mapping[str, Session],
    verdicts: Verdicts,
    shapes: Shapes,
    inputs: Sequence[Feeds] = (),
) -> list[str]:
    """Names of the sessions that agree with the reference; all of them where no reference is installed.

    `inputs` are real ones, of which those of these shapes are taken: what a detector finds in noise is next
    to nothing, and a ratio to nothing says nothing. Writes what it found of each into `verdicts`. Raises
    ParityError if none agrees.
    """
    reference = BACKENDS.get("onnxruntime")
    worst, nudged = dict.fromkeys(sessions, SAME), SAME
    if reference.why_not():
        verdicts.update(
            {n: {"backend": n, "parity": f"not checked: {reference.why_not()}"} for n in sessions}
        )
        return list(sessions)
    plain = OpenOptions(shapes=shapes, optimize=False, provider="cpu")
    with reference.open(artifact, plain) as exact:
        real = [feeds for feeds in inputs if {n: v.shape for n, v in feeds.items()} == dict(shapes)][:SEEDS]
        for seed, feeds in enumerate(real or [random_feeds(artifact, shapes, seed) for seed in range(SEEDS)]):
            expected = {name: value.copy() for name, value in exact(feeds).items()}
            # Where the very shape of an output hangs on the last bit, nothing is measured and granted.
            with suppress(ParityError):
                nudged = nudged.worse(difference(expected, exact(_nudged(feeds, seed))))
            for name, session in sessions.items():
                worst[name] = worst[name].worse(difference(expected, session(feeds)))
    for name, found in worst.items():
        figures = {"max_rel": found.parity.max_rel, "sqnr_db": min(found.parity.sqnr_db, INFINITE_DB)}
        if found.unequal:
            figures["unequal"] = found.unequal
        verdicts[name] = {"backend": name, **figures, "verdict": f"wrong results: {found}"}
    precision = "int8" if is_quantized(artifact) else artifact.precision
    passed = [name for name, found in worst.items() if agrees(found, precision, nudged)]
    if not passed:
        all_found = "; ".join(f"{name} {found}" for name, found in worst.items())
        raise ParityError(
            f"no backend computes what {artifact.model} says: {all_found}",
            HINTS.get(precision, "build with --precision fp32"),
        )
    return passed


@dataclass(frozen=True)
class Difference:
    """Of a candidate to the reference, over all outputs.

    Attributes:
        parity: of the floating-point outputs.
        unequal: largest share of elements of an integer or bool output that differ.
        moved: largest mean difference of such an output, over its largest value; that of an 8-bit one is at
            most `unequal`, of others it is `unequal`, because the distance of two class indices says nothing.
    """

    parity: Parity = EXACT
    unequal: float = 0.0
    moved: float = 0.0

    def worse(self, other: Difference) -> Difference:
        """Figure by figure, the worse of two."""
        return Difference(
            self.parity.worse(other.parity), max(self.unequal, other.unequal), max(self.moved, other.moved)
        )

    def __str__(self) -> str:
        unequal = f", {self.unequal:.1%} of the integers differ" if self.unequal else ""
        return f"max rel {self.parity.max_rel:.1e}, SQNR {self.parity.sqnr_db:.1f} dB{unequal}"


SAME = Difference()


def difference(expected: Mapping[str, Array], got: Mapping[str, Array]) -> Difference:
    """The worst difference of any output; raises ParityError where names or shapes differ."""
    floats = {name: value for name, value in expected.items() if value.dtype.kind not in "iub"}
    worst = Difference(compare_all(floats, got))
    for name, value in expected.items():
        if name not in floats:
            parity = compare_all({name: value}, got)  # refuses a missing output and another shape
            if parity.max_abs:
                worst = worst.worse(_discrete(value, got[name]))
    return worst


def agrees(found: Difference, precision: str, nudged: Difference = SAME) -> bool:
    """Whether a runtime computes what the exact one does.

    FP32_MAX_REL for fp32, else MIN_SQNR_DB; and of integer outputs MAX_UNEQUAL or MAX_MOVED. In fp32 it
    may also differ by GRANT times `nudged`: how far the exact outputs move with the last bit of the inputs.
    """
    if precision == "fp32":
        granted = min(GRANT * nudged.unequal, GRANT_MAX_UNEQUAL)
        limit = max(FP32_MAX_REL, min(GRANT * nudged.parity.max_rel, GRANT_MAX_REL))
        return (
            found.unequal <= max(MAX_UNEQUAL["fp32"], granted) or found.moved <= MAX_MOVED["fp32"]
        ) and found.parity.max_rel <= limit
    right = found.unequal <= MAX_UNEQUAL[precision] or found.moved <= MAX_MOVED[precision]
    return right and found.parity.sqnr_db >= MIN_SQNR_DB[precision]


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


def _nudged(feeds: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """The feeds with the last bit of every float32 value moved up or down."""
    rng = np.random.default_rng(seed)
    return {
        name: value * (1 + LAST_BIT * rng.choice((-1, 1), value.shape)).astype(np.float32)
        if value.dtype == np.float32
        else value
        for name, value in feeds.items()
    }


def _discrete(expected: Array, got: Array) -> Difference:
    unequal = float(np.mean(expected != got))
    if expected.dtype.itemsize > 1 or expected.dtype.kind == "b":
        return Difference(unequal=unequal, moved=unequal)
    reference = expected.astype(np.float64)
    peak = max(1.0, float(np.abs(reference).max()))
    return Difference(unequal=unequal, moved=float(np.abs(reference - got).mean()) / peak)
