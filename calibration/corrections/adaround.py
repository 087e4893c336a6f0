"""min over integers q of (w - s q) C (w - s q)^T, a row w per output channel, C = covariance of its input.

Rounding to nearest minimizes the error of each weight. The error of the layer's output is smaller where the
errors of weights with correlated inputs cancel. AdaRound solves this problem by gradients. Here GPTQ rounds
column by column and compensates each error in the columns left; coordinate descent then runs until no code
changes. No step has a learning rate. Nagel et al., ICML 2020, eq. 12; Frantar et al., ICLR 2023, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.collect.moments import Moments, from_rows, input_moments, is_supported, rows
from edgedeploy.calibration.correction import CORRECTIONS, AfterPlacement, Setting
from edgedeploy.calibration.place.layers import Layer, Placed
from edgedeploy.calibration.place.weights import on_grid, quantize_weight
from edgedeploy.core.pair_sums import LEVELS, Product, code_limits, saturating

_BLOCK = 64
FULL_RANGE = np.array([[[-LEVELS]], [[LEVELS]]], dtype=np.float64)


@CORRECTIONS.register
@dataclass(frozen=True)
class AdaptiveRounding(AfterPlacement):
    """Chooses the codes of weights by the error of the layer's output; scales stay.

    Attributes:
        damping: share of the mean of C's diagonal that is added to the diagonal, against sampling error.
        sweeps: maximum number of sweeps of coordinate descent.
        largest: layers of larger K keep nearest rounding; time and memory grow with K^2.
    """

    name = "adaround"
    order = 30
    damping: float = 0.01
    sweeps: int = 4
    largest: int = 4608

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise ValueError(f"damping must be positive, not {self.damping}")
        if self.sweeps < 0 or self.largest < 1:
            raise ValueError("sweeps must not be negative, largest must be positive")

    def correct(
        self, quantized: onnx.ModelProto, model: onnx.ModelProto, setting: Setting
    ) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        placed = Placed(quantized, model)
        layers = [
            layer
            for layer in placed.layers
            if is_supported(layer)
            and placed.private(layer)
            and rows(layer, layer.w.astype(np.float64)).shape[2] <= self.largest
            # Weights trained for their codes keep the codes, unless kernels would saturate.
            and not _trained(layer, setting)
        ]
        before = after = 0.0
        for layer, moments in input_moments(placed, layers, setting):
            if moments.count:
                gain = self._round(placed, layer, moments, setting.rules.product(layer.node))
                before, after = before + gain[0], after + gain[1]
        if not before:
            return quantized, ()
        note = f"codes of {len(layers)} weights chosen by their layers' outputs: error x {after / before:.2f}"
        return placed.finished(), (note,)

    def _round(
        self, placed: Placed, layer: Layer, moments: Moments, product: Product | None
    ) -> tuple[float, float]:
        """Error of the layer's output before and after, over the variance of the output."""
        steps = np.broadcast_to(placed.steps(layer), layer.w.shape)
        w = rows(layer, layer.w.astype(np.float64))
        scale = rows(layer, steps)[:, :, 0]
        codes = rows(layer, placed.value(layer.dequantize.input[0]).astype(np.float64))
        limits = _limits(layer, steps, product)
        chosen = np.empty_like(codes)
        before = after = power = 0.0
        # A bias corrects the mean error; without a bias the mean is part of the error.
        bias = placed.shift_bias(layer, np.zeros(layer.outputs))
        spread = moments.covariance if bias else moments.second
        for group, covariance in enumerate(spread):
            x = w[group] / scale[group][:, None]  # weights in units of their step
            chosen[group] = best = self.solve(x, codes[group], covariance, limits[:, group])
            unit = scale[group] ** 2
            before += float(unit @ _cost(x - codes[group], covariance))
            after += float(unit @ _cost(x - best, covariance))
            power += float(unit @ _cost(x, covariance))
        if power <= 0 or not after < before:
            return 0.0, 0.0
        placed.replace(layer.dequantize.input[0], from_rows(layer, chosen))
        if bias:
            shift = scale * np.einsum("gok,gk->go", w / scale[:, :, None] - chosen, moments.mean)
            placed.shift_bias(layer, shift.reshape(-1))
        return before / power, after / power

    def solve(
        self,
        w: NDArray[np.float64],
        nearest: NDArray[np.float64],
        c: NDArray[np.float64],
        limits: NDArray[np.float64] = FULL_RANGE,
    ) -> NDArray[np.float64]:
        """Codes (outputs, K) for weights in units of their scale; no row is worse than `nearest`.

        `limits` are the least and the greatest code, one pair or (2, outputs, K).
        """
        damped = c + np.eye(c.shape[0]) * max(self.damping * float(np.trace(c)) / c.shape[0], 1e-30)
        try:
            q = _sequential(w, damped, limits)
        except np.linalg.LinAlgError:  # rounding made C indefinite: only descend
            q = nearest.copy()
        _descend(w, q, damped, self.sweeps, limits)
        worse = _cost(w - q, c) > _cost(w - nearest, c)
        return np.where(worse[:, None], nearest, q)


def _trained(layer: Layer, setting: Setting) -> bool:
    product = setting.rules.product(layer.node)
    saturates = product is not None and saturating(quantize_weight(layer.w, layer.axis)[0], product)
    return layer.axis is not None and on_grid(layer.w, layer.axis) and not saturates


def _limits(layer: Layer, steps: NDArray[np.float64], product: Product | None) -> NDArray[np.float64]:
    """Least and greatest codes, (2, groups, outputs of a group, K)."""
    if product is None:
        return np.broadcast_to(FULL_RANGE[..., None], (2, *rows(layer, layer.w.astype(np.float64)).shape))
    return np.stack([rows(layer, end) for end in code_limits(layer.w / steps, product)])


def _cost(error: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """e C e^T for every row e."""
    result: NDArray[np.float64] = ((error @ c) * error).sum(axis=1)
    return result


def _sequential(
    w: NDArray[np.float64], c: NDArray[np.float64], limits: NDArray[np.float64] = FULL_RANGE
) -> NDArray[np.float64]:
    """GPTQ: round column by column, largest variance first; later columns compensate the error.

    With C = R^T R, R upper triangular and the last column first, the target of column j after errors e is
    w_j + sum_(k > j) R_jk e_k / R_jj: no inverse of C is needed.
    """
    order = np.argsort(np.diag(c), kind="stable")  # the last is rounded first
    upper = np.linalg.cholesky(c[np.ix_(order, order)]).T
    upper /= np.diag(upper)[:, None].copy()
    x = w[:, order]
    low, high = np.broadcast_to(limits, (2, *w.shape))[:, :, order]
    errors = np.zeros_like(x)
    for start, stop in reversed(_blocks(w.shape[1])):
        aim = x[:, start:stop] + errors[:, stop:] @ upper[start:stop, stop:].T
        for column in range(stop - 1, start - 1, -1):
            later = errors[:, column + 1 : stop] @ upper[column, column + 1 : stop]
            code = np.clip(np.rint(aim[:, column - start] + later), low[:, column], high[:, column])
            errors[:, column] = x[:, column] - code
    q = np.empty_like(w)
    q[:, order] = np.rint(x - errors)
    return q


def _descend(
    w: NDArray[np.float64],
    q: NDArray[np.float64],
    c: NDArray[np.float64],
    sweeps: int,
    limits: NDArray[np.float64] = FULL_RANGE,
) -> None:
    """Coordinate descent in place: each code moves to its least cost with all others fixed."""
    gradient = (w - q) @ c
    diagonal = np.diag(c)
    low, high = np.broadcast_to(limits, (2, *w.shape))
    for _ in range(sweeps):
        moved = False
        for start, stop in _blocks(w.shape[1]):
            before, within = q[:, start:stop].copy(), gradient[:, start:stop].copy()
            for column in range(start, stop):
                step = np.rint(within[:, column - start] / diagonal[column])
                step = np.clip(q[:, column] + step, low[:, column], high[:, column]) - q[:, column]
                if step.any():
                    q[:, column] += step
                    within -= step[:, None] * c[column, start:stop]
            steps = q[:, start:stop] - before
            if steps.any():
                moved = True
                gradient -= steps @ c[start:stop]
        if not moved:
            break


def _blocks(columns: int) -> list[tuple[int, int]]:
    """Blocks of columns; one matrix product applies a block's changes to the other columns."""
    return [(start, min(start + _BLOCK, columns)) for start in range(0, columns, _BLOCK)]
