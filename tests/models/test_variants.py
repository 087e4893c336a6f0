"""Several models of one builder: names, bound arguments, remaining options."""

from __future__ import annotations

import pickle
from inspect import signature

import pytest
from torch import nn

from edgedeploy.models import MODELS
from edgedeploy.models.variants import Build, register_scales, register_variants


def build(inputs: int, outputs: int = 2, *, bias: bool = True) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


@pytest.fixture
def registered() -> dict[str, Build]:
    entries: dict[str, Build] = {}

    def enter(builder: Build) -> Build:
        entries[builder.__name__] = builder
        return builder

    assert register_variants(enter, narrow=(3,), wide=(30, 4))(build) is build
    assert register_scales(lambda _: enter)(build) is build
    return entries


def test_a_variant_has_its_name_and_the_module_of_the_builder(registered: dict[str, Build]) -> None:
    assert list(registered) == ["narrow", "wide", "build_x2", "build_x3", "build_x4"]
    assert {variant.__module__ for variant in registered.values()} == {__name__}


def test_first_arguments_are_bound_and_the_others_are_options(registered: dict[str, Build]) -> None:
    assert list(signature(registered["narrow"]).parameters) == ["outputs", "bias"]
    assert list(signature(registered["wide"]).parameters) == ["bias"]
    wide = registered["wide"](bias=False)
    assert (wide.in_features, wide.out_features, wide.bias) == (30, 4, None)
    assert registered["build_x3"]().in_features == 3


def test_a_variant_reaches_another_process(registered: dict[str, Build]) -> None:
    again = pickle.loads(pickle.dumps(registered["wide"]))  # noqa: S301  of our own making
    assert again.__name__ == "wide"
    assert again().out_features == 4


def test_every_builder_of_the_zoo_can_be_pickled() -> None:
    for info in MODELS.all():
        assert pickle.loads(pickle.dumps(info.build)).__name__ == info.name  # noqa: S301  of our own making
