"""Which layers to keep in float: the least time within a noise budget, layers added until it is kept.

minimise the time of all layers, subject to sum of the noise of INT8 ones <= budget: a knapsack, solved
greedily by noise per millisecond that INT8 saves (Dantzig's order). Noise of layers does not just add up, so
how far to go along that order is tried on the emulated model, and what is proposed has to be measured whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgedeploy.calibration.sensitivity import LayerSensitivity, Sensitivity


def float_order(sensitivity: Sensitivity, savings: Mapping[str, float]) -> list[LayerSensitivity]:
    """Layers in the order in which they shall go back to float, the first first.

    Args:
        sensitivity: noise of each layer alone.
        savings: milliseconds, or any one unit, that each saves in INT8. Those that save nothing come first;
            of a layer that is not named (an Add in INT8) it is not known, and taken to be their median.
    """
    known = sorted(value for value in savings.values() if value > 0)
    usual = known[len(known) // 2] if known else 1.0

    def worth(layer: LayerSensitivity) -> tuple[bool, float]:
        saving = savings.get(layer.name, usual)
        return saving > 0, -layer.noise / max(saving, 1e-9)

    return sorted(sensitivity.layers, key=lambda layer: (*worth(layer), layer.name))


def least_prefix(order: Sequence[str], enough: Callable[[Sequence[str]], bool]) -> int:
    """How many of `order`, from its start, are enough; all of them where fewer are not. By bisection."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if enough(order[:middle]):
            high = middle
        else:
            low = middle + 1
    return low


def reason(layer: LayerSensitivity, saving: float | None = None) -> str:
    """Why a layer is kept in float, in one line."""
    if saving is not None and saving <= 0:
        return f"INT8 saves no time here ({saving:+.3f} ms)"
    told = f"alone in INT8 it leaves {layer.output_db:.1f} dB at the output"
    return f"{told}, agreement {layer.agreement:.3f}" if layer.agreement is not None else told
