"""Whether a runtime computes what the model says: as ONNX Runtime does with its optimizations off.

The inputs are real ones where there are some, else random ones in the task's range. Class maps and 8-bit
images are judged by how many elements moved, and how far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedeploy.backend import BACKENDS, Array, Feeds, OpenOptions, Session, Shapes
from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import RUNTIME, Difference, difference, finite_db, last_bit_sensitivity, worst
from edgedeploy.core.spec import Artifact
from edgedeploy.runtime.feeds import random_feeds
from edgedeploy.runtime.onnx_file import is_quantized

SEEDS = 2

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
    precision = "int8" if is_quantized(artifact) else artifact.precision
    real = [feeds for feeds in inputs if {n: v.shape for n, v in feeds.items()} == dict(shapes)][:SEEDS]
    drawn = real or [random_feeds(artifact, shapes, seed) for seed in range(SEEDS)]
    plain = OpenOptions(shapes=shapes, optimize=False, provider="cpu")
    with reference.open(artifact, plain) as exact:
        # A session may reuse the memory of its outputs in the next run: copied.
        pairs = [(feeds, {name: value.copy() for name, value in exact(feeds).items()}) for feeds in drawn]
        tolerance = RUNTIME[precision].granting(last_bit_sensitivity(exact, pairs))
    compared = {name: _attempt(session, pairs) for name, session in sessions.items()}
    differences = {name: found for name, found in compared.items() if isinstance(found, Difference)}
    failed = {name: found for name, found in compared.items() if isinstance(found, Exception)}
    wrong = {name: found for name, found in differences.items() if not tolerance.accepts(found)}
    if wrong and len(wrong) == len(differences):
        all_found = "; ".join(f"{name} {found}" for name, found in wrong.items())
        raise ParityError(
            f"no backend computes what {artifact.model} says: {all_found}",
            HINTS.get(precision, "build with --precision fp32"),
        )
    errors = {**failed, **{name: ParityError(f"wrong results: {found}") for name, found in wrong.items()}}
    figures: dict[str, dict[str, Any]] = {name: _figures(found) for name, found in differences.items()}
    return {name: Comparison(figures.get(name, {}), errors.get(name)) for name in sessions}


def _attempt(session: Session, pairs: Sequence[tuple[Feeds, Mapping[str, Array]]]) -> Difference | Exception:
    """The worst difference over all runs, or the error of one: other sessions may still agree."""
    try:
        return worst([difference(expected, session(feeds)) for feeds, expected in pairs])
    except Exception as error:  # noqa: BLE001
        return error


def _figures(found: Difference) -> dict[str, float]:
    """The figures of a report; `unequal` only where integers differ."""
    figures = {"max_rel": found.max_rel, "sqnr_db": finite_db(found.sqnr_db)}
    return {**figures, "unequal": found.unequal} if found.unequal else figures
