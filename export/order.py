"""The passes of a deployment in the order in which they run, again and again until nothing fires."""

from __future__ import annotations

DEFAULT_PASSES: tuple[str, ...] = (
    # clean: fewer nodes, known shapes
    "drop-dead",
    "fold-constants",
    "drop-identity",
    "drop-neutral",
    "merge-duplicates",
    # recognise: decompositions become the operators that they stand for, before folding takes their constants
    "fuse-clip",
    "fuse-softplus",
    "fuse-hardsigmoid",
    "fuse-hardswish",
    "fuse-gelu",
    "fuse-mish",
    "fuse-layernorm",
    "fuse-rmsnorm",
    "fuse-logsoftmax",
    "fuse-reducel2",
    "drop-monotone-before-argmax",
    "static-resize",
    "static-reshape",
    "fuse-pixel-shuffle",
    "fuse-space-to-depth",
    # fold: arithmetic into weights; what stands behind a BatchNormalization can join only once that has
    "fold-batchnorm",
    "fold-mul-add",
    "fold-pad",
)
