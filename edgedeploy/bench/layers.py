"""Time per layer of a built model, as its runtime profiles it, gathered under the model's own layers.

Runtimes fuse what follows a layer into it, and put conversions between layers: whatever runs after a layer
and before the next is counted with it. The least of several runs, because other programs only add time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedeploy.backend import BACKENDS, Feeds, LayerTime, OpenOptions
from edgedeploy.core.spec import Artifact

RUNS = 30  # milliseconds each; on a busy machine a dozen may all be disturbed


def layer_times(
    built: Artifact, layers: Mapping[str, str], feeds: Feeds, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Milliseconds of each layer; empty where the runtime has no profile or names its layers otherwise.

    `layers` has for the names of nodes the layer that they count with: themselves, and activations that fuse.
    """
    least: dict[str, float] = {}
    backend = BACKENDS.get(built.backend)
    with backend.open(built, OpenOptions(shapes=shapes, profile=True)) as session:
        for number in range(RUNS):
            session(feeds)
            if number < 2:  # warm-up; ONNX Runtime's profile can be read once, after the last run
                continue
            if built.backend == "onnxruntime" and number < RUNS - 1:
                continue
            for name, milliseconds in gather(session.layers(), layers).items():
                least[name] = min(milliseconds, least.get(name, milliseconds))
    return least


def gather(times: Sequence[LayerTime], layers: Mapping[str, str]) -> dict[str, float]:
    """Sums per layer; what comes before the first goes to it."""
    found: dict[str, float] = {}
    current, early = "", 0.0
    for entry in times:
        current = _layer_of(entry.name, layers) or current
        if current:
            found[current] = found.get(current, 0.0) + entry.milliseconds
        else:
            early += entry.milliseconds
    if found and early:
        first = next(iter(found))
        found[first] += early
    return found


def _layer_of(name: str, layers: Mapping[str, str]) -> str:
    """The layer that a runtime's layer is named after: the longest name that it begins with, as a word."""
    best = ""
    for layer in layers:
        if len(layer) > len(best) and name.startswith(layer):
            rest = name[len(layer) :]
            # "conv1_f32_bf16_conv2" is a conversion, which belongs to what stands before it: conv1.
            if not rest[:1].isalnum() and rest[:1] != ".":
                best = layer
    return layers.get(best, "")
