"""Random inputs that exercise a model: several draws, and several sizes and batches where it is dynamic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgedeploy.core.random_inputs import random_blocks, random_tensor
from edgedeploy.core.spec import TensorSpec
from edgedeploy.graphs.run import Evaluator, NotRunnable, Outputs

# Heights and widths tried for dynamic sizes, the smallest that the model accepts first: most networks need
# multiples of 32, and some more than 64 to survive their pooling. The second of each pair differs so that no
# axis is swapped.
SIZES = ((64, 96), (128, 192), (256, 320), (224, 224), (32, 32), (28, 28))
# Nothing larger is allocated for the sake of a proof; 8K images in 32 channels are half of it.
MOST_ELEMENTS = 1 << 31
CONTRASTS = (0.0, 4.0, 1.0)
Ranges = Mapping[str, tuple[float, float]]


def random_feeds(
    inputs: Sequence[TensorSpec],
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = SIZES[0],
    batch: int = 1,
    contrast: float = 0.0,
    ranges: Ranges | None = None,
) -> Outputs:
    """One draw for every input, as of `random_tensor`; floats of the inputs named in `ranges` lie in those.

    Images (rank 4) get blocks of `contrast` times a normal value on top: noise alone is all that some
    detectors never answer to. Dimensions of one name get one size: the first is the batch, the spatial ones
    are `size`. Raises NotRunnable for inputs that are not numbers, or too many.
    """
    sizes: dict[str, int] = {}
    feeds: Outputs = {}
    for spec in inputs:
        shape = _shape(spec, size, batch, sizes)
        if math.prod(shape) > MOST_ELEMENTS:
            raise NotRunnable(f"input '{spec.name}' has {math.prod(shape):.1e} elements")
        within = (ranges or {}).get(spec.name)
        try:
            value = random_tensor(spec.dtype, shape, rng, within=within)
        except TypeError:
            raise NotRunnable(f"its inputs are {'text' if spec.dtype == 'str' else spec.dtype}") from None
        if contrast and within is None and len(shape) == 4 and value.dtype.kind == "f":
            value += (contrast * random_blocks(shape, rng)).astype(value.dtype)
        feeds[spec.name] = value
    return feeds


def feed_sets(
    evaluator: Evaluator, seeds: int, ranges: Ranges | None = None
) -> Iterator[tuple[Outputs, Outputs]]:
    """(feeds, outputs) for `seeds` draws; models with dynamic sizes see another size and batch each time.

    Raises NotRunnable if no size tried can be run.
    """
    dynamic = not all(spec.is_static for spec in evaluator.inputs)
    # Batches of 1 and 2 take turns, so that a rewrite that fixes the batch is seen; then the other way round.
    turns = [[(size, 1 + (number + turn) % 2) for number, size in enumerate(SIZES)] for turn in (0, 1)]
    plans = [*turns[0], *turns[1]] if dynamic else [(SIZES[0], 1)]
    runnable: list[tuple[tuple[int, int], int]] = []
    error = NotRunnable("it has no size to run at")

    def drawn(seed: int, plan: tuple[tuple[int, int], int], number: int) -> Outputs:
        size, batch = plan
        contrast = CONTRASTS[number % len(CONTRASTS)]
        rng = np.random.default_rng(seed)
        return random_feeds(evaluator.inputs, rng, size=size, batch=batch, contrast=contrast, ranges=ranges)

    for number, plan in enumerate(plans):
        feeds = drawn(number, plan, len(runnable))
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
        feeds = drawn(1000 + seed, runnable[seed % len(runnable)], seed)
        yield feeds, evaluator(feeds)


def _shape(spec: TensorSpec, size: tuple[int, int], batch: int, sizes: dict[str, int]) -> tuple[int, ...]:
    """Every dimension of an input; `sizes` are of the names met so far, and gets those that are new."""
    shape = []
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            shape.append(dim)
            continue
        key = dim if dim != "?" else f"{spec.name}/{axis}"
        spatial = _spatial_axis(spec, axis)
        guess = batch if axis == 0 else size[spatial] if spatial is not None else size[0] // 8
        shape.append(sizes.setdefault(key, guess))
    return tuple(shape)


def _spatial_axis(spec: TensorSpec, axis: int) -> int | None:
    if len(spec.shape) != 4:
        return None
    first = 1 if spec.layout == "NHWC" or spec.shape[3] in (1, 3, 4) else 2
    return axis - first if first <= axis < first + 2 else None
