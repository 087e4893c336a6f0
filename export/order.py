"""The passes of a deployment in the order in which they run, again and again until nothing fires."""

from __future__ import annotations

DEFAULT_PASSES: tuple[str, ...] = (
    # clean: fewer nodes, known shapes
    "drop-dead",
    "fold-constants",
    "drop-identity",
    "drop-neutral",
    "merge-duplicates",
    # fold: arithmetic into weights; what stands behind a BatchNormalization can join only once that has
    "fold-batchnorm",
    "fold-mul-add",
    "fold-pad",
    "fold-norm-affine",
    # merge: what is linear in a row or side by side, once the norms between are gone
    "merge-affine-chain",
    "merge-parallel-affine",
    "merge-parallel-conv",
    "merge-sequential-conv",
    "merge-sibling-conv",
)
