"""Several models from one builder: each model binds the builder's first arguments.

The builder's other parameters are the options of each model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

Build = Callable[..., nn.Module]
Register = Callable[[Build], Build]
B = TypeVar("B", bound=Build)
SCALES = (2, 3, 4)  # factors of super-resolution


def register_variants(register: Register, **variants: tuple[Any, ...]) -> Callable[[B], B]:
    """Decorator of a builder, a function or a class: `NAME=(first arguments)` registers the model NAME.

    `register` is the decorator that registers a single builder, e.g. `register_model(...)`.
    """

    def enter(build: B) -> B:
        for name, arguments in variants.items():
            register(_bind(build, name, *arguments))
        return build

    return enter


def register_scales(register: Callable[[int], Register]) -> Callable[[B], B]:
    """Decorator of a builder NAME(scale): registers NAME_x2, NAME_x3 and NAME_x4 by `register(scale)`."""

    def enter(build: B) -> B:
        for scale in SCALES:
            register(scale)(_bind(build, f"{build.__name__}_x{scale}", scale))
        return build

    return enter


def _bind(build: Build, name: str, *arguments: Any) -> Build:
    """`partial(build, *arguments)` called `name`. A partial pickles: worker processes receive it."""
    variant = partial(build, *arguments)
    vars(variant).update(__name__=name, __module__=build.__module__)
    return variant
