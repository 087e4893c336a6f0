"""Sensitivity of each quantized layer: SQNR at its own output and at the model's, and the task's agreement.

SQNR = 10 log10(sum y^2 / sum (y - y')^2) over all images; y: every layer in float, y': one layer in INT8. At
a layer's own output also y': all layers in INT8. Each layer and image takes one run of the switched model
(emulate.py), so use few images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from numpy.typing import NDArray

from edgedeploy.calibration.collect.memory_plan import within_budget
from edgedeploy.calibration.mix.emulate import Emulator
from edgedeploy.calibration.place.plan import Note
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.parity import OutputNoise, SignalNoise, finite_db
from edgedeploy.core.progress import Progress
from edgedeploy.graphs.run import Outputs
from edgedeploy.graphs.view import GraphView, concrete, elements

# (float outputs, outputs) -> agreement, 1 where they are equal: a task's `agreement`.
Agreement = Callable[[Outputs, Outputs], float]


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Attributes:
        name, op: name and operator of the node.
        own_db: SQNR of the layer's output; this layer alone is in INT8.
        output_db: SQNR of the model's worst output; this layer alone is in INT8.
        together_db: SQNR of the layer's output; all layers are in INT8.
        agreement: mean agreement of the model's outputs; this layer alone is in INT8. None without a task.
        metric: the task's metric; this layer alone is in INT8. None without labels.
    """

    name: str
    op: str
    own_db: float
    output_db: float
    together_db: float
    agreement: float | None = None
    metric: float | None = None

    @property
    def noise(self) -> float:
        """Noise power of the layer at the output over signal power."""
        return float(10 ** (-self.output_db / 10))


@dataclass(frozen=True)
class Sensitivity:
    """Figures of each layer in graph order, and of the model with all layers in INT8."""

    layers: tuple[LayerSensitivity, ...]
    images: int
    output_db: float
    agreement: float | None = None
    metric: float | None = None
    metric_float: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def worst_first(self) -> list[LayerSensitivity]:
        """Layers by SQNR at the output, the most sensitive layer first."""
        return sorted(self.layers, key=lambda layer: (layer.output_db, layer.name))


@dataclass
class _Tally:
    own: SignalNoise = field(default_factory=SignalNoise)
    output: OutputNoise = field(default_factory=OutputNoise)
    together: SignalNoise = field(default_factory=SignalNoise)
    agreements: list[float] = field(default_factory=list)


def measure(
    float_model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    layers: Sequence[Note],
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    *,
    agreement: Agreement | None = None,
    memory_mb: int = 512,
    progress: Progress | None = None,
) -> tuple[Sensitivity, Emulator]:
    """Sensitivity of each of `layers` (`report.placement.quantized`), and the emulator for mixes.

    `memory_mb` bounds the float activations kept per image. Raises CalibrationError without an image, or if
    the model does not run.
    """
    notes = {note.node: note for note in layers}
    outputs = {node.name: node.output[0] for node in float_model.graph.node if node.name in notes}
    emulator = Emulator(float_model, quantized, notes, outputs.values())
    tallies, whole = {name: _Tally() for name in notes}, _Tally()
    count = 0
    for feed in feeds:
        for group in _groups(float_model, outputs, feed, memory_mb << 20):
            probes = [outputs[name] for name in group]
            exact = emulator.run(feed, (), probes)
            everything = emulator.run(feed, None, probes)
            for number, name in enumerate(group):
                tally, probe = tallies[name], outputs[name]
                alone = emulator.run(feed, (name,), (probe,))
                tally.own.add(exact[probe], alone[probe])
                tally.together.add(exact[probe], everything[probe])
                _compare(tally, emulator.outputs, exact, alone, agreement)
                if progress is not None and not number % 4:
                    progress(count * len(notes) + number, None)
        _compare(whole, emulator.outputs, exact, everything, agreement)
        count += 1
    if not count:
        raise CalibrationError("there is no image to measure sensitivity on", "give some with --data")
    found = tuple(
        LayerSensitivity(
            name,
            notes[name].op,
            finite_db(tally.own.sqnr_db),
            tally.output.worst_db,
            finite_db(tally.together.sqnr_db),
            _mean(tally.agreements),
        )
        for name, tally in tallies.items()
    )
    return Sensitivity(found, count, whole.output.worst_db, _mean(whole.agreements)), emulator


def _compare(
    tally: _Tally, names: Iterable[str], exact: Outputs, got: Outputs, agreement: Agreement | None
) -> None:
    tally.output.add({name: exact[name] for name in names}, got)
    if agreement is not None:
        tally.agreements.append(agreement(exact, got))


def _groups(
    model: onnx.ModelProto, outputs: Mapping[str, str], feed: Mapping[str, NDArray[Any]], budget: int
) -> list[list[str]]:
    """Layers in order, in groups whose float outputs, two copies each, fit the budget in bytes."""
    shapes = GraphView(concrete(model, {name: value.shape for name, value in feed.items()})).shapes
    need = [8 * (elements(shapes.get(tensor)) or 1 << 20) for tensor in outputs.values()]
    return within_budget(list(outputs), need, budget) or [[]]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
