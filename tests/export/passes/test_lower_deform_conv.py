"""Deformable convolution lowered for runtimes without it: what is refused, and a whole detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.surgeon import load
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.reparam import reparameterize

SAME = "float[1,4,6,6] x, float[1,18,6,6] o"
REFUSED = [
    (SAME, "v = Abs(w) \n y = DeformConv<pads=[1,1,1,1]>(x, v, o)", "the weight is not a constant"),
    ("float[1,4,h,v] x, float[1,18,h,v] o", "y = DeformConv<pads=[1,1,1,1]>(x, w, o)", "has no fixed size"),
    (
        "float[1,4,6,6] x, float[1,36,6,6] o",
        "y = DeformConv<pads=[1,1,1,1], offset_group=2>(x, w, o)",
        "several groups",
    ),
]


@pytest.mark.parametrize(("inputs", "body", "reason"), REFUSED)
def test_what_cannot_be_lowered_is_left_with_a_reason(
    rng: np.random.Generator, inputs: str, body: str, reason: str
) -> None:
    model = text_model(inputs, "y", body, {"w": floats(rng, 5, 4, 3, 3)})
    applied = PASSES.get("lower-deform-conv").apply(load(model))
    assert applied.hits == 0
    assert reason in applied.skipped[0].reason


def test_a_deformable_detector_exports_the_operator_and_lowers_to_standard_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("dbnet_deformable_resnet18").eval()
    for name, module in network.named_modules():
        if name.endswith("conv2_offset"):  # taps that really move
            torch.nn.init.normal_(module.weight, 0, 0.02)
            torch.nn.init.normal_(module.bias, 0, 1)
    options = CaptureOptions(height=64, width=96, seeds=1)
    artifact = capture(
        reparameterize(network), options, tmp_path / "m.onnx", info=MODELS.get("dbnet_deformable_resnet18")
    )
    assert artifact.history[-1].options["exporter"] == "dynamo"
    model = onnx.load(artifact.path)
    assert [node.op_type for node in model.graph.node].count("DeformConv") == 6
    result = optimize(model, ["lower-deform-conv"], seeds=1)
    assert not result.reverted
    assert result.steps[0].hits == 6
    assert {node.op_type for node in result.model.graph.node} >= {"GridSample", "Conv"}
    assert "DeformConv" not in {node.op_type for node in result.model.graph.node}
