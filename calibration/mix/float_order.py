"""Which layers to keep in float: the least time within a noise budget, layers added until it is kept.

minimize the time of all layers, subject to sum of the noise of INT8 ones <= budget: a knapsack, solved by
noise per millisecond that INT8 saves (Dantzig's order), after the layers that save next to nothing. Noise
does not just add up: how far to go is tried on the emulated model, and what is proposed is measured whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity


def float_order(
    sensitivity: Sensitivity, savings: Mapping[str, float], least: float = 0.0
) -> tuple[list[LayerSensitivity], int]:
    """Layers in the order in which they return to float, and the number at its start whose INT8 does not pay.

    Args:
        sensitivity: noise of each layer alone.
        savings: milliseconds, or any one unit, that each layer saves in INT8. A layer without a figure (an
            Add in INT8) is taken to save their median.
        least: layers that save at most `least` come first, those that save nothing before them.
    """
    known = sorted(value for value in savings.values() if value > 0)
    usual = known[len(known) // 2] if known else 1.0

    def worth(layer: LayerSensitivity) -> tuple[bool, float]:
        saving = savings.get(layer.name, usual)
        return saving > least, -layer.noise / max(saving, 1e-9)

    order = sorted(sensitivity.layers, key=lambda layer: (*worth(layer), layer.name))
    return order, sum(1 for layer in order if not worth(layer)[0])


def negligible(savings: Mapping[str, float], share: float) -> float:
    """The largest of the smallest savings that together are at most this share of all that is saved."""
    known = sorted(value for value in savings.values() if value > 0)
    together, largest = 0.0, 0.0
    for value in known:
        together += value
        if together > share * math.fsum(known):
            break
        largest = value
    return largest


def least_prefix(order: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> int:
    """Length of the shortest prefix of `order` that is enough, by bisection; all of it where none is."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if enough(order[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


def reason(layer: LayerSensitivity, saving: float | None = None, least: float = 0.0) -> str:
    """Why a layer is kept in float, in one line; `least` as of `float_order`."""
    if saving is not None and saving <= least:
        return f"INT8 saves {'no' if saving <= 0 else 'too little'} time here ({saving:+.3f} ms)"
    noise = f"alone in INT8 it leaves {layer.output_db:.1f} dB at the output"
    return f"{noise}, agreement {layer.agreement:.3f}" if layer.agreement is not None else noise
