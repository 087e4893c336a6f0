"""Run ONNX models as written, in ONNX Runtime with its optimizations off, on inputs that exercise them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgedeploy.core.errors import first_line
from edgedeploy.core.spec import TensorSpec
from edgedeploy.graphs.metadata import tensor_specs
from edgedeploy.graphs.weights import bytes_of_all, write_beside

Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]

# Heights and widths tried for dynamic sizes, the smallest that the model accepts first: most networks need
# multiples of 32, and some more than 64 to survive their pooling. The second of each pair differs so that no
# axis is swapped.
SIZES = ((64, 96), (128, 192), (256, 320), (224, 224), (32, 32), (28, 28))
# Nothing larger is allocated for the sake of a proof; 8K images in 32 channels are half of it.
MOST_ELEMENTS = 1 << 31
# Larger models are given to the runtime as files, which it maps: as bytes they would be there three times
# over, and protobuf takes no 2 GB of them.
IN_MEMORY = 1 << 28
BLOCK = 8  # pixels
CONTRASTS = (0.0, 4.0, 1.0)


class NotRunnable(Exception):
    """ONNX Runtime refuses the model; the message is its own first line."""


class Evaluator:
    """A model in ONNX Runtime without graph optimizations; call it with feeds."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.inputs, self.outputs = tensor_specs(model)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        # Many short runs: threads that spin between them only take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            if bytes_of_all(model) < IN_MEMORY:
                self._session = _open(model.SerializeToString(), options)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "model.onnx"
                    light = write_beside(model, path.with_name("weights"), "weights")
                    path.write_bytes(light.SerializeToString())
                    self._session = _open(str(path), options)
        except Exception as error:  # the runtime raises a dozen unrelated classes
            raise NotRunnable(first_line(error)) from error

    def __call__(self, feeds: Feeds) -> Outputs:
        """Outputs by name; raises NotRunnable with ONNX Runtime's reason."""
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            raise NotRunnable(first_line(error)) from error
        return dict(zip(names, values, strict=True))


def random_feeds(
    inputs: Sequence[TensorSpec],
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = SIZES[0],
    batch: int = 1,
    contrast: float = 0.0,
) -> Outputs:
    """One draw for every input: normal floats, integers of the whole range if 8 bits wide and 0..4 otherwise.

    Images (rank 4) get blocks of `contrast` times a normal value on top: noise alone is all that some
    detectors never answer to. Dimensions of one name get one size: the first is the batch, the spatial ones
    are `size`.
    """
    sizes: dict[str, int] = {}
    feeds: Outputs = {}
    for spec in inputs:
        shape = []
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            key = dim if dim != "?" else f"{spec.name}/{axis}"
            spatial = _spatial_axis(spec, axis)
            guess = batch if axis == 0 else size[spatial] if spatial is not None else size[0] // 8
            shape.append(sizes.setdefault(key, guess))
        if math.prod(shape) > MOST_ELEMENTS:
            raise NotRunnable(f"input '{spec.name}' has {math.prod(shape):.1e} elements")
        feeds[spec.name] = _draw(spec.dtype, tuple(shape), rng)
        if contrast and len(shape) == 4 and feeds[spec.name].dtype.kind == "f":
            blocks = rng.standard_normal((shape[0], shape[1], -(-shape[2] // BLOCK), -(-shape[3] // BLOCK)))
            image = np.kron(blocks, np.ones((BLOCK, BLOCK)))[:, :, : shape[2], : shape[3]]
            feeds[spec.name] += (contrast * image).astype(feeds[spec.name].dtype)
    return feeds


def feed_sets(evaluator: Evaluator, seeds: int) -> Iterator[tuple[Outputs, Outputs]]:
    """(feeds, outputs) for `seeds` draws; models with dynamic sizes see another size and batch each time.

    Raises NotRunnable if no size tried can be run.
    """
    dynamic = not all(spec.is_static for spec in evaluator.inputs)
    # Batches of 1 and 2 take turns, so that a rewrite that fixes the batch is seen; then the other way round.
    turns = [[(size, 1 + (number + turn) % 2) for number, size in enumerate(SIZES)] for turn in (0, 1)]
    plans = [*turns[0], *turns[1]] if dynamic else [(SIZES[0], 1)]
    runnable: list[tuple[tuple[int, int], int]] = []
    error = NotRunnable("it has no size to run at")
    for number, plan in enumerate(plans):
        feeds = _drawn(evaluator, number, plan, len(runnable))
        try:
            outputs = evaluator(feeds)
        except NotRunnable as reason:
            error = reason
            continue
        runnable.append(plan)
        yield feeds, outputs
        if len(runnable) >= min(seeds + dynamic, len(plans)):
            break
    if not runnable:
        raise error
    for seed in range(len(runnable), seeds):
        feeds = _drawn(evaluator, 1000 + seed, runnable[seed % len(runnable)], seed)
        yield feeds, evaluator(feeds)


def _drawn(evaluator: Evaluator, seed: int, plan: tuple[tuple[int, int], int], number: int) -> Outputs:
    size, batch = plan
    contrast = CONTRASTS[number % len(CONTRASTS)]
    return random_feeds(
        evaluator.inputs, np.random.default_rng(seed), size=size, batch=batch, contrast=contrast
    )


def _spatial_axis(spec: TensorSpec, axis: int) -> int | None:
    if len(spec.shape) != 4:
        return None
    first = 1 if spec.layout == "NHWC" or spec.shape[3] in (1, 3, 4) else 2
    return axis - first if first <= axis < first + 2 else None


def _draw(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype == "str":
        raise NotRunnable("it has text inputs")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise NotRunnable(f"its inputs are {dtype}") from None
    if kind.kind in "iu":
        info = np.iinfo(kind)
        low, high = (info.min, info.max) if kind.itemsize == 1 else (0, 4)
        return np.asarray(rng.integers(low, high, shape, endpoint=True), kind)
    return np.asarray(rng.standard_normal(shape), kind)


def _open(source: bytes | str, options: Any) -> Any:
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
