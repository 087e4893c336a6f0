"""When a discontinuous network counts as captured, and that nothing of a continuous one is excused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedeploy.core.errors import ParityError
from edgedeploy.core.parity import CAPTURE, Difference, nudged
from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.export.capture import capture as capture_module
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.prove.discontinuity import PERTURBATIONS, Image, Verdict, judge

ONES = np.ones((1, 1, 4, 4), np.float32)
NEAR = np.full((1, 1, 4, 4), 2.0, np.float32)


def judged(
    errors: list[float], more: list[float], network: Callable[[Image], float], near: int = 0
) -> Verdict:
    """The draw numbered `near` is at a threshold of `network`."""

    def perturbed(image: Image, index: int) -> Difference:
        moved = nudged(image, np.random.default_rng(index), PERTURBATIONS[index])
        return Difference(max_rel=abs(network(image) - network(moved)))

    first = [
        (NEAR if number == near else ONES, Difference(max_rel=error)) for number, error in enumerate(errors)
    ]
    return judge(first, [(ONES, Difference(max_rel=error)) for error in more], perturbed, CAPTURE)


def verdict(agrees: bool, error: float, excused: int = 0) -> Verdict:
    return Verdict(agrees, Difference(max_rel=error), excused)


def step(image: Image) -> float:
    return float((image >= 2.0).mean())


def smooth(image: Image) -> float:
    return float(np.tanh(image).mean())


def test_draws_that_agree_need_no_excuse() -> None:
    assert judged([1e-6, 2e-6], [], step) == verdict(True, 2e-6)


def test_a_draw_at_a_threshold_is_excused_where_others_agree() -> None:
    assert judged([0.4, 1e-6, 2e-6], [], step) == verdict(True, 2e-6, 1)
    assert judged([0.4], [1e-6, 2e-6], step).agrees


def test_a_continuous_network_is_excused_nothing() -> None:
    for error in (2e-4, 0.4):
        assert judged([error, 1e-6, 2e-6], [1e-6] * 5, smooth) == verdict(False, error)


@pytest.mark.parametrize(
    ("errors", "more"),
    [
        ([0.4, 1e-6], []),
        ([0.4, 0.4, 0.4], [0.4, 1e-6, 1e-6]),
        ([40.0, 1e-6, 1e-6], []),
        ([float("nan")] * 3, []),
    ],
)
def test_too_little_agreement_or_too_large_a_step_is_refused(errors: list[float], more: list[float]) -> None:
    assert not judged(errors, more, step).agrees


def test_nudges_move_last_bits_only() -> None:
    images = [nudged(ONES, np.random.default_rng(0), bits) for bits in PERTURBATIONS]
    assert all(0 < np.abs(image - ONES).max() <= 2.0**-20 for image in images)


class Steps(nn.Module):
    """Deep and binary: some draws lie within rounding of a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sign(self.conv(image)).mean((2, 3))


def test_capture_refuses_a_wrong_graph_of_a_network_of_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, other = Steps().eval(), Steps().eval()
    other.load_state_dict(network.state_dict())
    options = CaptureOptions(exporter="dynamo", height=16, width=16)
    assert (capture(network, options, tmp_path / "m.onnx").history[0].error or 0) <= CAPTURE.max_rel
    with torch.no_grad():
        other.conv.weight.mul_(-1)
    export = capture_module.export_dynamo
    monkeypatch.setattr(capture_module, "export_dynamo", lambda _, *rest: export(other, *rest))
    with pytest.raises(ParityError, match="is off the network by"):
        capture(network, options, tmp_path / "m.onnx")
