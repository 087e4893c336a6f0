"""m = E[x], H = E[x x^T] of the vectors x that a layer's weight is multiplied with, K of them in H's side.

A convolution's x are patches, drawn evenly from its output positions, the same number of each of at most
SAMPLE inputs; so memory is K^2 a layer (K^2 / groups for a grouped one) whatever the number and size of
images, and layers are taken in several passes over the data where that exceeds the budget. Frantar and
Alistarh, 2022, eq. 3 (H).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from edgedeploy.calibration.collect.memory_plan import within_budget
from edgedeploy.calibration.collect.values import SAMPLE, values
from edgedeploy.calibration.correction import Setting
from edgedeploy.calibration.place.layers import Layer, Placed
from edgedeploy.graphs.view import attribute

PATCHES = 16384  # of a layer, from all inputs together
INPUT_PATCHES = 1024  # of one input


class Moments:
    """Running moments of a layer's inputs, vectors of K values in each of its groups.

    Sums are taken of x - s with s = the mean of the first vectors: where the mean is far above the spread,
    the difference of E[x x^T] and m m^T would be rounding noise. Chan, Golub and LeVeque, 1983, shifted data.
    """

    def __init__(self, groups: int, depth: int) -> None:
        self.count = 0
        self._shift: NDArray[np.float32] = np.zeros((groups, depth), np.float32)
        self._first = np.zeros((groups, depth))
        self._second = np.zeros((groups, depth, depth))
        self._waiting: list[NDArray[np.float32]] = []

    def add(self, x: NDArray[np.float32]) -> None:
        """Take in vectors (groups, n, K); those that are not finite are left out."""
        x = x[:, np.isfinite(x).all(axis=(0, 2))]
        if not self.count and x.shape[1]:
            self._shift = x.mean(axis=1, dtype=np.float64).astype(np.float32)
        self.count += x.shape[1]
        self._waiting.append(x - self._shift[:, None])
        # Writing K x K doubles costs as much as multiplying some hundred vectors.
        if sum(each.shape[1] for each in self._waiting) >= INPUT_PATCHES:
            self.finish()

    def finish(self) -> None:
        """Add up what still waits."""
        if self._waiting:
            x = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
            self._waiting.clear()
            self._first += x.sum(axis=1, dtype=np.float64)
            self._second += np.matmul(x.transpose(0, 2, 1), x)

    @property
    def mean(self) -> NDArray[np.float64]:
        """m = E[x], (groups, K)."""
        return self._shift + self._first / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """E[(x - m)(x - m)^T], (groups, K, K)."""
        d = self._first / max(self.count, 1)
        return self._second / max(self.count, 1) - d[:, :, None] * d[:, None, :]

    @property
    def second(self) -> NDArray[np.float64]:
        """H = E[x x^T], (groups, K, K)."""
        m = self.mean
        return self.covariance + m[:, :, None] * m[:, None, :]


def input_moments(
    placed: Placed, layers: Sequence[Layer], setting: Setting
) -> Iterator[tuple[Layer, Moments]]:
    """Moments of what each layer's codes are multiplied with, in the quantized network; in their order."""
    patches = _patches(setting)
    for group in within_budget(layers, map(_bytes, layers), setting.memory_mb << 20):
        found = {layer.node.output[0]: Moments(*_size(layer)) for layer in group}
        inputs = [layer.node.input[0] for layer in group]
        for tensors in values(placed.model, inputs, setting, at_most=SAMPLE):
            for layer in group:
                found[layer.node.output[0]].add(vectors(layer, tensors[layer.node.input[0]], patches))
        for layer in group:
            moments = found.pop(layer.node.output[0])
            moments.finish()
            yield layer, moments


def _patches(setting: Setting) -> int:
    """Vectors to take from each input, so that all inputs together give PATCHES."""
    source = setting.feeds()
    inputs = min(SAMPLE, max(1, len(source))) if isinstance(source, Sized) else SAMPLE
    return min(INPUT_PATCHES, PATCHES // inputs)


def rows(layer: Layer, w: NDArray[np.float64]) -> NDArray[np.float64]:
    """A weight as (groups, outputs of a group, K): the matrix whose rows meet the vectors."""
    if layer.node.op_type == "Conv":
        groups = int(attribute(layer.node, "group", 1))
        return np.reshape(w, (groups, w.shape[0] // groups, -1))
    transposed = layer.node.op_type == "Gemm" and attribute(layer.node, "transB", 0)
    matrix: NDArray[np.float64] = w if transposed else w.T
    return matrix[None]


def from_rows(layer: Layer, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of a matrix that `rows` gave."""
    transposed = layer.node.op_type == "Conv" or attribute(layer.node, "transB", 0)
    result: NDArray[np.float64] = matrix.reshape(layer.w.shape) if transposed else matrix[0].T
    return np.ascontiguousarray(result)


def is_supported(layer: Layer) -> bool:
    """Whether `vectors` knows this layer's arithmetic: Conv in two dimensions, Gemm, MatMul by a matrix."""
    node = layer.node
    if node.op_type == "Conv":
        return layer.w.ndim == 4 and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if node.op_type == "Gemm":
        return not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == 1.0
    return node.op_type == "MatMul" and layer.w.ndim == 2


def vectors(layer: Layer, x: NDArray[np.float32], most: int = INPUT_PATCHES) -> NDArray[np.float32]:
    """What a layer's weight is multiplied with, (groups, n, K), at most so many of them."""
    node = layer.node
    if node.op_type != "Conv":
        flat = x.reshape(-1, x.shape[-1])
        return flat[_even(flat.shape[0], most)][None]
    groups = int(attribute(node, "group", 1))
    strides = list(attribute(node, "strides", [1, 1]))
    dilations = list(attribute(node, "dilations", [1, 1]))
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    kernel = layer.w.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    sizes = [(x.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(2)]
    chosen = _even(x.shape[0] * sizes[0] * sizes[1], most)
    image, place = np.divmod(chosen, sizes[0] * sizes[1])
    y, column = np.divmod(place, sizes[1])
    ys = y[:, None] * strides[0] + np.arange(kernel[0]) * dilations[0]
    xs = column[:, None] * strides[1] + np.arange(kernel[1]) * dilations[1]
    patches = x[image[:, None, None], :, ys[:, :, None], xs[:, None, :]]  # (n, kh, kw, C)
    n, channels = patches.shape[0], patches.shape[3]
    patches = patches.transpose(0, 3, 1, 2).reshape(n, groups, channels // groups * kernel[0] * kernel[1])
    return np.ascontiguousarray(patches.transpose(1, 0, 2), dtype=np.float32)


def _even(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` positions, evenly spread but out of step with rows and columns."""
    if count <= most:
        return np.arange(count)
    picks = (np.arange(most) + 0.5 + 0.37 * np.cos(np.arange(most))) * (count / most)
    return np.clip(picks, 0, count - 1).astype(np.int64)


def _size(layer: Layer) -> tuple[int, int]:
    matrix = rows(layer, layer.w.astype(np.float64))
    return matrix.shape[0], matrix.shape[2]


def _bytes(layer: Layer) -> int:
    """Memory of a layer's moments, and of at most 2 INPUT_PATCHES float32 vectors not yet added."""
    groups, depth = _size(layer)
    return 8 * groups * depth * (depth + 1 + INPUT_PATCHES)
