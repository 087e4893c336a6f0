"""Do two models compute the same? The one measure of their difference, and the tolerances of its callers.

Floating-point outputs are compared by largest error and SQNR. Class maps, masks and 8-bit images are compared
by the share of elements that differ: a rounding error moves a few elements to a neighboring value. Each
output is compared alone, and the worst output counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedeploy.core.errors import ParityError

Outputs = Mapping[str, Any]  # name -> array, or list of arrays for an ONNX sequence

CEILING_DB = 300.0  # SQNR of equal outputs where a finite number is needed: JSON has no infinity


@dataclass(frozen=True)
class Difference:
    """Difference of a candidate to a reference; of several outputs the worst, figure by figure.

    Attributes:
        max_rel: largest absolute error of floating-point outputs over the reference's largest absolute value.
        sqnr_db: signal to quantization noise, 10 log10(sum r^2 / sum (r - c)^2); inf when equal.
        unequal: share of the elements of an integer, bool or string output that differ.
        moved: mean error of an 8-bit output over its largest value. For other discrete outputs `unequal`,
            because the distance of two class indices has no meaning.
    """

    max_rel: float = 0.0
    sqnr_db: float = math.inf
    unequal: float = 0.0
    moved: float = 0.0

    def worse(self, other: Difference) -> Difference:
        """Figure by figure, the worse of two."""
        return Difference(
            max(self.max_rel, other.max_rel),
            min(self.sqnr_db, other.sqnr_db),
            max(self.unequal, other.unequal),
            max(self.moved, other.moved),
        )

    def __str__(self) -> str:
        unequal = f", {self.unequal:.1%} of the integers differ" if self.unequal else ""
        return f"max rel {self.max_rel:.1e}, SQNR {self.sqnr_db:.1f} dB{unequal}"


EXACT = Difference()


def worst(differences: Iterable[Difference]) -> Difference:
    """Figure by figure, the worst of any number; EXACT for none."""
    return reduce(Difference.worse, differences, EXACT)


@dataclass
class SignalNoise:
    """Running sums for one SQNR over many pairs of tensors."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add a pair of tensors; a candidate of another shape (another number of detections) is all noise."""
        if reference.shape != candidate.shape:
            self.noise = math.inf
            return
        r = reference.astype(np.float64).ravel()
        noise = r - candidate.astype(np.float64).ravel()
        self.signal += float(r @ r)
        self.noise += float(noise @ noise)

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise), inf without noise, -inf for noise without signal or not finite."""
        if self.noise == 0:
            return math.inf
        ratio = self.signal / self.noise
        return 10 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else -math.inf


@dataclass
class OutputNoise:
    """SQNR of each floating-point output over many runs; of all outputs if none is floating-point."""

    outputs: dict[str, SignalNoise] = field(default_factory=dict)

    def add(self, expected: Outputs, got: Outputs) -> None:
        floats = [name for name, value in expected.items() if value.dtype.kind not in "iub"]
        for name in floats or expected:
            self.outputs.setdefault(name, SignalNoise()).add(expected[name], got[name])

    @property
    def worst_db(self) -> float:
        """SQNR of the worst output, within +-CEILING_DB."""
        return finite_db(min((output.sqnr_db for output in self.outputs.values()), default=math.inf))


def finite_db(sqnr_db: float) -> float:
    """The SQNR within +-CEILING_DB."""
    return min(max(sqnr_db, -CEILING_DB), CEILING_DB)


def compare(reference: NDArray[Any], candidate: NDArray[Any], quiet: float = 0.0) -> Difference:
    """Difference of two tensors of one shape as numbers; NaN and infinities at equal positions are equal.

    `quiet` is the least value that `max_rel` divides by: outputs below it hold rounding and little else.
    Raises ParityError if the shapes differ.
    """
    _check_shapes(reference, candidate)
    r = reference.astype(np.float64).ravel()
    c = candidate.astype(np.float64).ravel()
    finite = np.isfinite(r)
    if not np.array_equal(r[~finite], c[~finite], equal_nan=True) or not np.isfinite(c[finite]).all():
        return Difference(math.inf, -math.inf)
    r, c = r[finite], c[finite]
    max_abs = float(np.abs(r - c).max(initial=0.0))
    if max_abs == 0.0:
        return EXACT
    power = SignalNoise()
    power.add(r, c)
    peak = max(float(np.abs(r).max()), quiet)
    # The relative error of a reference of zeros is the absolute one.
    return Difference(max_abs / peak if peak > 0 else max_abs, power.sqnr_db)


def difference(expected: Outputs, got: Outputs, quiet: float = 0.0) -> Difference:
    """Worst difference over all expected outputs, each by the measure of its type; `quiet` as for `compare`.

    Raises ParityError where an output is missing or has another shape.
    """
    if missing := next((name for name in expected if name not in got), None):
        raise ParityError(
            f"output '{missing}' is missing; there are {', '.join(got)}", "compare files of the same model"
        )
    return worst(_of_output(name, reference, got[name], quiet) for name, reference in expected.items())


def worst_difference(pairs: Iterable[tuple[Outputs, Outputs]], quiet: float = 0.0) -> Difference:
    """Worst `difference` over (expected outputs, outputs) of several runs."""
    return worst(difference(expected, got, quiet) for expected, got in pairs)


def nudged(value: Any, rng: np.random.Generator, bits: int = 1) -> Any:
    """A float array with every value moved up or down at random by `bits` last bits; others unchanged."""
    if getattr(getattr(value, "dtype", None), "kind", "") != "f":
        return value
    step = bits * float(np.finfo(value.dtype).eps)
    return np.asarray(value * (1 + step * rng.choice((-1, 1), value.shape)), value.dtype)


def last_bit_sensitivity(
    run: Callable[[dict[str, Any]], Outputs], pairs: Iterable[tuple[Outputs, Outputs]], quiet: float = 0.0
) -> Difference:
    """How far outputs move when the last bit of every floating-point input value moves.

    Args:
        run: the model.
        pairs: (inputs, outputs of the model). Inputs on which the shape of an output depends on the last
            bit are left out.
        quiet: as for `compare`.
    """
    moves, rng = [], np.random.default_rng(0)
    for feeds, outputs in pairs:
        with suppress(ParityError):
            moved = run({name: nudged(value, rng) for name, value in feeds.items()})
            moves.append(difference(outputs, moved, quiet))
    return worst(moves)


# Some networks amplify rounding: another order of a sum in the first layer moves their outputs by more than
# any tolerance. A tolerance therefore grows to GRANT times the last-bit sensitivity, up to its own limits.
GRANT = 4.0


@dataclass(frozen=True)
class Tolerance:
    """The largest difference that counts as equal.

    Attributes:
        max_rel, sqnr_db: limits for floating-point outputs.
        unequal, moved: limits for discrete outputs, of which one must hold.
        granted_rel, granted_unequal: up to where the last-bit sensitivity raises `max_rel` and `unequal`.
    """

    max_rel: float = math.inf
    sqnr_db: float = -math.inf
    unequal: float = 1e-3
    moved: float = 1e-3
    granted_rel: float = 0.0
    granted_unequal: float = 0.0

    def accepts(self, found: Difference) -> bool:
        discrete = found.unequal <= self.unequal or found.moved <= self.moved
        return discrete and found.max_rel <= self.max_rel and found.sqnr_db >= self.sqnr_db

    def granting(self, sensitivity: Difference) -> Tolerance:
        """The tolerance for a model of this last-bit sensitivity."""
        return replace(
            self,
            max_rel=max(self.max_rel, min(GRANT * sensitivity.max_rel, self.granted_rel)),
            unequal=max(self.unequal, min(GRANT * sensitivity.unequal, self.granted_unequal)),
        )


# Of an export to the network itself. fp32 networks of 100 layers differ by about 1e-6.
CAPTURE = Tolerance(max_rel=1e-4, granted_rel=math.inf, granted_unequal=1.0)
# Of a graph after a pass to the graph before; a pass states its own `max_rel`, see `of_pass`.
PASS = Tolerance()
# Of a quantized file after a fix to the file before; a lint rule states its own `sqnr_db`.
FIX = Tolerance()
# Of a runtime to the same graph computed exactly, by precision. bf16 has 8 bits of mantissa, fp16 has 11, and
# depth costs some of them. INT8 runtimes differ in rounding only, which depth turns into flipped steps. Class
# maps differ by ties, which rounding breaks either way; images differ in the last bit.
RUNTIME = {
    "fp32": Tolerance(max_rel=1e-3, unequal=1e-3, moved=1e-3, granted_rel=0.1, granted_unequal=0.05),
    "fp16": Tolerance(sqnr_db=40.0, unequal=0.02, moved=5e-3),
    "bf16": Tolerance(sqnr_db=25.0, unequal=0.05, moved=0.02),
    "int8": Tolerance(sqnr_db=20.0, unequal=0.1, moved=0.03),
}
# Where ONNX Runtime has no float16 kernel it computes in float32 and rounds nothing between two such
# operators (tests/export/test_half.py). A constant that a pass computes is rounded to float16, as the graph
# says. Two equal graphs therefore differ by a last bit; in onnx's reference evaluator they do not.
HALF_LIMIT = 2.0**-10


def of_pass(atol: float, half: bool = False) -> Tolerance:
    """PASS for a pass that promises `atol`, in a graph with float16 outputs or without (`half`)."""
    limit = max(PASS.unequal, atol)
    most = max(100 * atol, HALF_LIMIT if half else 0.0)
    return replace(PASS, max_rel=atol, unequal=limit, moved=limit, granted_rel=most, granted_unequal=0.05)


def _of_output(name: str, reference: Any, candidate: Any, quiet: float) -> Difference:
    if isinstance(reference, list):
        if len(reference) != len(candidate):
            raise ParityError(
                f"output '{name}' has {len(candidate)} items, not {len(reference)}",
                "compare runs on the same input",
            )
        return difference(_numbered(name, reference), _numbered(name, candidate), quiet)
    kind = getattr(getattr(reference, "dtype", None), "kind", "O")
    if kind in "iub":
        return _discrete(reference, np.asarray(candidate))
    if kind in "fV":  # V: bfloat16
        return compare(reference, candidate, quiet)
    equal = np.array_equal(np.asarray(reference, object), np.asarray(candidate, object))
    return EXACT if equal else Difference(unequal=1.0, moved=1.0)


def _numbered(name: str, sequence: Iterable[Any]) -> dict[str, Any]:
    return {f"{name}[{index}]": item for index, item in enumerate(sequence)}


def _discrete(expected: NDArray[Any], got: NDArray[Any]) -> Difference:
    _check_shapes(expected, got)
    if not expected.size:
        return EXACT
    unequal = float(np.mean(expected != got))
    if expected.dtype.itemsize > 1 or expected.dtype.kind == "b":
        return Difference(unequal=unequal, moved=unequal)
    reference = expected.astype(np.float64)
    peak = max(1.0, float(np.abs(reference).max()))
    return Difference(unequal=unequal, moved=float(np.abs(reference - got).mean()) / peak)


def _check_shapes(expected: NDArray[Any], got: NDArray[Any]) -> None:
    if expected.shape != got.shape:
        raise ParityError(
            f"shapes differ: {expected.shape} against {got.shape}", "compare runs on the same input"
        )
