"""Each rule by which scales and shifts move, broken on purpose: random graphs then compute something else.

Without this, that random graphs find nothing would say little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgedeploy.export.affine import absorbing, layout
from edgedeploy.export.affine.commuting import COMMUTING, alike, rising, symmetric, without_shift
from edgedeploy.export.affine.layout import LAYOUT
from edgedeploy.export.affine.rule import Context, Implied, Rule
from edgedeploy.export.affine.value import Affine, Array
from tests.support.random_graphs import build, error_of

GRAPHS = 2000
FOUND = 1e-2  # far above what rounding does
Patch = Callable[[pytest.MonkeyPatch], None]


def rule(table: dict[str, Rule], op: str, broken: Rule) -> Patch:
    return lambda patch: patch.setitem(table, op, broken)


def attribute(target: Any, name: str, broken: Any) -> Patch:
    return lambda patch: patch.setattr(target, name, broken)


def all_equal(ctx: Context) -> Implied:
    """The same scale and the same shift on both operands and the result."""
    value = next(v for t in (*ctx.node.inputs, ctx.y) if (v := ctx.get(t)) is not None)
    for tensor in (*ctx.node.inputs, ctx.y):
        yield tensor, value


REAL_BLOCKED, REAL_SLICES, REAL_CONCATENATED = layout._blocked, layout._slices, layout._concatenated


def exchanged_modes(ctx: Context, deep: bool) -> Callable[[Array], Array]:
    """Channels of DCR where they are those of CRD, and the reverse."""
    mode = "DCR" if ctx.node.attrs.get("mode", "DCR") == "CRD" else "CRD"
    node = SimpleNamespace(op="DepthToSpace", attrs={**ctx.node.attrs, "mode": mode})
    return REAL_BLOCKED(replace(ctx, node=node), deep)


def mirrored(array: Array, positions: range, axis: int) -> Array:
    size = array.shape[axis]
    return array if size == 1 else np.take(array, range(size - positions.stop, size - positions.start), axis)


def reversed_parts(arrays: Sequence[Array], sizes: Sequence[int], axis: int) -> Array:
    return REAL_CONCATENATED(arrays[::-1], sizes[::-1], axis)


def last_first(patch: pytest.MonkeyPatch) -> None:
    # On both ways through a Concat: one alone contradicts the other, and the search gives up.
    patch.setattr(layout, "_concatenated", reversed_parts)
    patch.setattr(layout, "_positions", mirrored)


def from_the_start(ctx: Context, rank: int) -> tuple[slice, ...]:
    return tuple(slice(0, s.stop - s.start) if s.start else s for s in REAL_SLICES(ctx, rank))


def never(_: Any) -> bool:
    return False


# What is broken -> (how, operators of the graphs drawn around it)
MUTATIONS: dict[str, tuple[Patch, Sequence[str]]] = {
    "Relu passes a negative scale": (
        rule(COMMUTING, "Relu", symmetric(without_shift)), ("conv", "arithmetic", "activation"),
    ),
    "LeakyRelu passes a shift": (
        rule(COMMUTING, "LeakyRelu", symmetric(rising)), ("conv", "norm", "activation"),
    ),
    "MaxPool passes a negative scale": (
        rule(COMMUTING, "MaxPool", symmetric(alike)), ("conv", "norm", "pool"),
    ),
    "counted padding passes a shift": (
        rule(COMMUTING, "AveragePool", symmetric(alike)), ("conv", "norm", "pool"),
    ),
    "padding by a constant passes a shift": (
        rule(COMMUTING, "Pad", symmetric(alike)), ("conv", "norm", "pad"),
    ),
    "a crop beyond the image passes a shift": (
        rule(COMMUTING, "Resize", symmetric(alike)), ("conv", "norm", "resize"),
    ),
    "both terms of a sum take the shift": (
        rule(COMMUTING, "Add", Rule(all_equal, data=2)), ("conv", "norm", "conv", "both"),
    ),
    "both factors of a product take the scale": (
        rule(COMMUTING, "Mul", Rule(all_equal, data=2)), ("conv", "arithmetic", "conv", "both"),
    ),
    "a Transpose does not move the axis": (
        rule(LAYOUT, "Transpose", symmetric(lambda _, value: value)), ("conv", "norm", "transpose"),
    ),
    "parts of a Concat in the wrong order": (
        last_first, ("conv", "norm", "concat"),
    ),
    "channels of a DepthToSpace of the other mode": (
        attribute(layout, "_blocked", exchanged_modes), ("conv", "norm", "depth"),
    ),
    "a Slice starts at 0": (
        attribute(layout, "_slices", from_the_start), ("conv", "norm", "cut"),
    ),
    "other readers do not take it back": (
        attribute(Affine, "inverse", lambda value: value), ("conv", "norm", "pool"),
    ),
    "a convolution reads a shift in its padding": (
        attribute(absorbing, "is_padded", never), ("conv", "norm", "transpose"),
    ),
    "weights are not scaled": (
        attribute(absorbing, "scale_outputs", lambda _, w, *__: w), ("conv", "norm", "pad"),
    ),
    "a norm forgets its mean": (
        attribute(absorbing, "batchnorm_parameters", lambda _, s, t: (s, t)), ("norm", "pad", "both"),
    ),
    "a bias loses the shift": (
        attribute(absorbing, "sum_of", lambda first, *_: first), ("conv", "norm", "both"),
    ),
}  # fmt: skip


def counterexample(names: Sequence[str]) -> int | None:
    """The number of the first graph drawn of these operators that is changed in what it computes."""
    for seed in range(GRAPHS):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 8))
        backs = rng.choice((0, 0, 0, 1, 2), count)
        draws = zip(rng.integers(0, len(names), count), backs, rng.integers(0, 16, count), strict=True)
        steps = [(int(operator), int(back), int(variant)) for operator, back, variant in draws]
        error, _ = error_of(build(seed, steps, names, middle=seed % 3))
        if not error <= FOUND:
            return seed
    return None


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, names = MUTATIONS[name]
    breaks(monkeypatch)
    assert counterexample(names) is not None


@pytest.mark.parametrize("names", dict.fromkeys(names for _, names in MUTATIONS.values()))
def test_the_rules_as_they_are_stand_the_same_graphs(
    names: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "GRAPHS", 100)
    assert counterexample(names) is None
