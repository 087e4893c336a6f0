"""The order in which layers return to float: most noise per millisecond that INT8 saves first.

The least time within a noise budget is a knapsack problem, and this is Dantzig's greedy order. Layers that
save almost no time come first. Noise does not add up over layers: the emulated model decides how many layers
are float, and the runtime measures the proposed mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from edgedeploy.calibration.mix.sensitivity import LayerSensitivity, Sensitivity


def float_order(
    sensitivity: Sensitivity, savings: Mapping[str, float], least: float = 0.0
) -> tuple[list[LayerSensitivity], int]:
    """Layers in the order in which they return to float, and the number of layers that save at most `least`.

    Args:
        sensitivity: noise of each layer alone.
        savings: time that each layer saves in INT8, in any one unit. A layer without a figure (an Add) counts
            with the median of the positive savings.
        least: layers that save at most `least` come first.
    """
    known = sorted(value for value in savings.values() if value > 0)
    median = known[len(known) // 2] if known else 1.0

    def worth(layer: LayerSensitivity) -> tuple[bool, float]:
        saving = savings.get(layer.name, median)
        return saving > least, -layer.noise / max(saving, 1e-9)

    order = sorted(sensitivity.layers, key=lambda layer: (*worth(layer), layer.name))
    return order, sum(1 for layer in order if not worth(layer)[0])


def negligible(savings: Mapping[str, float], share: float) -> float:
    """The largest saving of those that sum, smallest first, to at most `share` of all savings."""
    known = sorted(value for value in savings.values() if value > 0)
    total, largest = 0.0, 0.0
    for value in known:
        total += value
        if total > share * math.fsum(known):
            break
        largest = value
    return largest


def least_prefix(order: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> int:
    """Length of the shortest prefix of `order` that is `enough`, by bisection; else its full length."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if enough(order[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


def reason(layer: LayerSensitivity, saving: float | None = None, least: float = 0.0) -> str:
    """Why a layer stays in float, in one line; `least` as in `float_order`."""
    if saving is not None and saving <= least:
        return f"INT8 saves {'no' if saving <= 0 else 'too little'} time here ({saving:+.3f} ms)"
    noise = f"alone in INT8 it leaves {layer.output_db:.1f} dB at the output"
    return f"{noise}, agreement {layer.agreement:.3f}" if layer.agreement is not None else noise
