"""Whether a runtime computes what the model says: as ONNX Runtime does with its optimizations off.

The inputs are real ones where there are some, else random ones in the task's range. Class maps and 8-bit
images are judged by how many elements moved, and how far.
"""

from __future__ import annotations

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
INFINITE_DB = 300.0  # JSON has no infinity

HINTS = {
    "fp32": "an .onnx runs without a build too: edgedeploy bench MODEL.onnx@onnxruntime",
    "int8": "quantize again with more images of --data, or build the model that it was quantized from",
}


@dataclass(frozen=True)
class Comparison:
    """A session held against the reference.

    Attributes:
        figures: max_rel, sqnr_db and, of integer outputs, unequal; or why nothing was compared.
        error: what is wrong with the session; None where it agrees, or nothing was compared.
    """

    figures: dict[str, Any]
    error: Exception | None = None


def compare_sessions(
    artifact: Artifact, sessions: Mapping[str, Session], shapes: Shapes, inputs: Sequence[Feeds] = ()
) -> dict[str, Comparison]:
    """Compare sessions of one model with ONNX Runtime unoptimized.

    The inputs are those of `inputs` that have these shapes, else random ones. Real ones matter: what a
    detector finds in noise is next to nothing, and a ratio to nothing says nothing.

    Raises ParityError if sessions ran and none of them agrees.
    """
    reference = BACKENDS.get("onnxruntime")
    if reference.why_not():
        return {name: Comparison({"parity": f"not checked: {reference.why_not()}"}) for name in sessions}
    worst, nudged = dict.fromkeys(sessions, SAME), SAME
    failed: dict[str, Exception] = {}
    plain = OpenOptions(shapes=shapes, optimize=False, provider="cpu")
    with reference.open(artifact, plain) as exact:
        real = [feeds for feeds in inputs if {n: v.shape for n, v in feeds.items()} == dict(shapes)][:SEEDS]
        for seed, feeds in enumerate(real or [random_feeds(artifact, shapes, seed) for seed in range(SEEDS)]):
            expected = {name: value.copy() for name, value in exact(feeds).items()}
            # Where the very shape of an output hangs on the last bit, nothing is measured and granted.
            with suppress(ParityError):
                nudged = nudged.worse(difference(expected, exact(_nudged(feeds, seed))))
            for name, session in sessions.items():
                found = _attempt(session, feeds, expected)
                if isinstance(found, Difference):
                    worst[name] = worst[name].worse(found)
                else:
                    failed[name] = found
    precision = "int8" if is_quantized(artifact) else artifact.precision
    right = {name for name, found in worst.items() if name not in failed and agrees(found, precision, nudged)}
    wrong = {name: found for name, found in worst.items() if name not in {*right, *failed}}
    if wrong and not right:
        all_found = "; ".join(f"{name} {found}" for name, found in wrong.items())
        raise ParityError(
            f"no backend computes what {artifact.model} says: {all_found}",
            HINTS.get(precision, "build with --precision fp32"),
        )
    errors = {**failed, **{name: ParityError(f"wrong results: {found}") for name, found in wrong.items()}}
    figures = {name: {} if name in failed else found.figures for name, found in worst.items()}
    return {name: Comparison(figures[name], errors.get(name)) for name in sessions}


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

    @property
    def figures(self) -> dict[str, float]:
        """The figures of a report; `unequal` only where integers differ."""
        found = {"max_rel": self.parity.max_rel, "sqnr_db": min(self.parity.sqnr_db, INFINITE_DB)}
        return {**found, "unequal": self.unequal} if self.unequal else found

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


def _attempt(session: Session, feeds: Feeds, expected: Mapping[str, Array]) -> Difference | Exception:
    """The difference of one run, or why there is none: other sessions may still agree."""
    try:
        return difference(expected, session(feeds))
    except Exception as error:  # noqa: BLE001
        return error


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
