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
    "merge-affine",
    "fold-batchnorm",
    "fold-mul-add",
    # what is not beside an operator with weights finds its way there
    "propagate-affine",
    "fold-pad",
)
