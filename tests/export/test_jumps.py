"""When a network that jumps counts as captured, and that nothing of a smooth one is excused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedeploy.core.errors import ParityError
from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.export.capture import capture as capture_module
from edgedeploy.export.capture.capture import TOLERANCE, capture
from edgedeploy.export.prove.jumps import NUDGES, Image, Verdict, judge, nudged

ONES = np.ones((1, 1, 4, 4), np.float32)
NEAR = np.full((1, 1, 4, 4), 2.0, np.float32)


def judged(
    errors: list[float], more: list[float], network: Callable[[Image], float], near: int = 0
) -> Verdict:
    """The draw numbered `near` is where `network` may jump."""

    def move(image: Image, number: int) -> float:
        return abs(network(image) - network(nudged(image, number)))

    first = [(NEAR if number == near else ONES, error) for number, error in enumerate(errors)]
    return judge(first, [(ONES, error) for error in more], move, TOLERANCE)


def step(image: Image) -> float:
    return float((image >= 2.0).mean())


def smooth(image: Image) -> float:
    return float(np.tanh(image).mean())


def test_draws_that_agree_need_no_excuse() -> None:
    assert judged([1e-6, 2e-6], [], step) == Verdict(True, 2e-6)


def test_a_jump_is_excused_where_the_network_jumps_and_others_agree() -> None:
    assert judged([0.4, 1e-6, 2e-6], [], step) == Verdict(True, 2e-6, 1)
    assert judged([0.4], [1e-6, 2e-6], step).agrees


def test_a_smooth_network_is_excused_nothing() -> None:
    for error in (2e-4, 0.4):
        assert judged([error, 1e-6, 2e-6], [1e-6] * 5, smooth) == Verdict(False, error)


@pytest.mark.parametrize(
    ("errors", "more"),
    [
        ([0.4, 1e-6], []),
        ([0.4, 0.4, 0.4], [0.4, 1e-6, 1e-6]),
        ([40.0, 1e-6, 1e-6], []),
        ([float("nan")] * 3, []),
    ],
)
def test_too_little_agreement_or_too_far_a_jump_is_refused(errors: list[float], more: list[float]) -> None:
    assert not judged(errors, more, step).agrees


def test_nudges_move_last_bits_only() -> None:
    images = [nudged(ONES, number) for number in range(len(NUDGES))]
    assert all(0 < np.abs(image - ONES).max() <= 2.0**-20 for image in images)


class Steps(nn.Module):
    """Deep and binary: some draws lie within rounding of a jump."""

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
    assert (capture(network, options, tmp_path / "m.onnx").history[0].error or 0) <= TOLERANCE
    with torch.no_grad():
        other.conv.weight.mul_(-1)
    export = capture_module.export_dynamo
    monkeypatch.setattr(capture_module, "export_dynamo", lambda _, *rest: export(other, *rest))
    with pytest.raises(ParityError, match="is off the network by"):
        capture(network, options, tmp_path / "m.onnx")
