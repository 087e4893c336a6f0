"""Time per layer of a built model, from its runtime's profile, summed by the model's layers.

Runtimes fuse operators into the layer before them and insert conversions: everything between a layer and the
next counts with the first. The minimum of several runs, because other programs only add time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedeploy.backend import BACKENDS, Feeds, LayerTime, OpenOptions
from edgedeploy.core.spec import Artifact

RUNS = 30  # on a busy machine a dozen runs may all be disturbed


def layer_times(
    built: Artifact, layers: Mapping[str, str], feeds: Feeds, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, float]:
    """Milliseconds of each layer; empty if the runtime has no profile or other names of layers.

    `layers` maps names of nodes to the layer that they count with: themselves, or the layer they fuse into.
    """
    least: dict[str, float] = {}
    backend = BACKENDS.get(built.backend)
    with backend.open(built, OpenOptions(shapes=shapes, profile=True)) as session:
        for number in range(RUNS):
            session(feeds)
            # Two warm-up runs; ONNX Runtime's profile can be read once, after the last run.
            if number < (RUNS - 1 if built.backend == "onnxruntime" else 2):
                continue
            for name, milliseconds in gather(session.layers(), layers).items():
                least[name] = min(milliseconds, least.get(name, milliseconds))
    return least


def gather(times: Sequence[LayerTime], layers: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds per layer; time before the first layer counts with it."""
    named = [(_layer_of(entry.name, layers), entry.milliseconds) for entry in times]
    current = next((name for name, _ in named if name), "")
    sums: dict[str, float] = {}
    for name, milliseconds in named:
        current = name or current
        sums[current] = sums.get(current, 0.0) + milliseconds
    return sums if current else {}


def _layer_of(name: str, layers: Mapping[str, str]) -> str:
    """The layer whose name is the longest prefix, in whole words, of the name of a runtime's layer."""
    # "conv1_f32_bf16_conv2" is a conversion, which counts with the layer before it: conv1.
    prefixes = [
        layer
        for layer in layers
        if name.startswith(layer) and not (rest := name[len(layer) :][:1]).isalnum() and rest != "."
    ]
    return layers.get(max(prefixes, key=len, default=""), "")
