"""Every error tells its exit code, and unknown names their neighbors."""

from __future__ import annotations

import pytest

from edgedeploy.core import errors


def test_exit_codes_are_those_of_the_documentation() -> None:
    codes = {
        errors.UsageError: 2,
        errors.RecipeError: 2,
        errors.ArtifactError: 2,
        errors.CalibrationError: 2,
        errors.MissingDependencyError: 3,
        errors.BuildError: 3,
        errors.EngineMismatchError: 3,
        errors.DeviceError: 3,
        errors.OutputError: 3,
        errors.BudgetError: 4,
        errors.ParityError: 5,
    }
    assert {kind: kind.exit_code for kind in codes} == codes


def test_unknown_name_suggests_the_closest() -> None:
    error = errors.UnknownNameError("model", "espcn_x5", ["espcn_x3", "ddrnet_23_slim"])
    assert str(error) == "unknown model 'espcn_x5'"
    assert "espcn_x3" in error.hint
    assert "ddrnet" not in error.hint


@pytest.mark.parametrize("known", [["alpha", "beta"], []])
def test_unknown_name_without_neighbor_lists_what_there_is(known: list[str]) -> None:
    hint = errors.UnknownNameError("pass", "zzzzzz", known).hint
    assert hint == f"known: {', '.join(known) or 'none'}"


def test_unsupported_op_names_operator_node_and_backend() -> None:
    error = errors.UnsupportedOpError("GridSample", "/warp/GridSample", "tensorrt-rtx")
    assert all(word in str(error) for word in ("GridSample", "/warp/GridSample", "tensorrt-rtx"))
