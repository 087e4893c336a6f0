"""No batch norm is left in any network of the zoo but those that nothing can replace, which is proved."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from edgedeploy.export.capture.exporters import export_torchscript
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.run import Evaluator
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.settle import settle
from tests.support.norm_counter import norms, why_it_stays
from tests.support.random_graphs import build
from tests.support.zoo import models_under_test, one_of_each_family, small_options

# A minute each in training form; pvt and deit have their norms in the same places.
MINUTES = set() if os.environ.get("EDGEDEPLOY_ALL_MODELS") == "1" else {"slab_cswin_tiny", "slab_swin_tiny"}
MOST = {"ddrnet_23_slim": (12, 7)}  # norms before and after
RELATIVE = 1e-3  # deep networks in float32, with signs at random


def has_norms(name: str) -> bool:
    with torch.device("meta"):
        network = MODELS.get(name).build(**small_options(MODELS.get(name)))
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def training_form(name: str) -> tuple[onnx.ModelProto, torch.Tensor]:
    """An export with every norm, statistics settled, a third of all scales negative."""
    options = small_options(MODELS.get(name))
    info = MODELS.get(name).variant(**options)
    size = info.input_shape[2:] if info.fixed_size else (64, 64)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, info.input_shape[1], *size, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model(name, **options)
    for module in settle(network, x).modules():
        if isinstance(module, _BatchNorm) and module.affine:
            with torch.no_grad():
                module.weight[torch.rand(module.weight.shape, generator=generator) < 1 / 3] *= -1
    outputs = [f"y{number}" for number in range(len(info.outputs))]
    return export_torchscript(network, x, "x", outputs, 20, False), x


@pytest.mark.parametrize(
    "name", one_of_each_family(sorted({*filter(has_norms, models_under_test()), *MOST} - MINUTES))
)
def test_a_norm_that_is_left_cannot_go(name: str) -> None:
    model, x = training_form(name)
    result = optimize(model, verify=False)
    feeds = {"x": x.numpy()}
    before, after = Evaluator(model)(feeds), Evaluator(result.model)(feeds)
    for key, y in before.items():
        assert np.abs(after[key] - y).max() <= RELATIVE * np.abs(y).max()
    left = norms(result.model)
    reasons = {norm: why_it_stays(result.model, norm) for norm in left}
    assert [norm for norm, reason in reasons.items() if not reason] == []
    if name in MOST:
        assert (len(norms(model)), len(left)) <= MOST[name]


BETWEEN = {
    "c = Conv(x, w) \n y = {norm}(c, s, t, m, v)": "",
    "r = Relu(x) \n n = {norm}(r, s, t, m, v) \n y = Conv(n, w)": "",
    "r = Conv(x, w) \n p = MaxPool<kernel_shape=[2,2]>(r) \n y = {norm}(p, s, t, m, v)": "MaxPool",
    "r = Conv(x, w) \n q = Relu(r) \n n = {norm}(q, s, t, m, v) \n y = Conv<pads=[1,1,1,1]>(n, w)": "Conv",
    "n = {norm}(x, s, t, m, v) \n y = Sigmoid(n)": "'x' is an input",
    "r = Conv(x, w) \n a = Sigmoid(r) \n b = {norm}(r, s, t, m, v) \n y = Relu(b)": "Sigmoid",
}


@pytest.mark.parametrize("body", BETWEEN)
def test_a_proof_is_one(body: str, rng: np.random.Generator) -> None:
    weights = {"w": floats(rng, 4, 4, 3, 3), "s": np.array([1, 2, -1, 3], np.float32)}
    statistics = {"t": floats(rng, 4), "m": floats(rng, 4), "v": np.ones(4, np.float32)}
    model = text_model("float[1,4,9,9] x", "y", body.format(norm="BatchNormalization"), weights | statistics)
    model.graph.node[[node.op_type for node in model.graph.node].index("BatchNormalization")].name = "norm"
    reason = why_it_stays(model, "norm")
    assert BETWEEN[body] in reason
    assert bool(BETWEEN[body]) == bool(reason)


def test_nothing_folds_of_which_it_is_proved_that_it_stays() -> None:
    """On random graphs: else either the proof or the pass would be wrong."""
    proved = 0
    names = ("conv", "norm", "activation", "conv", "norm", "both", "concat", "pool", "resize")
    for seed in range(400):
        draw = np.random.default_rng(seed).integers(0, (len(names), 3, 16), (8, 3))
        model = build(seed, [(int(a), int(b), int(c)) for a, b, c in draw], names)
        stay = {norm for norm in norms(model) if why_it_stays(model, norm)}
        proved += len(stay)
        left = norms(optimize(model, ["fold-batchnorm", "propagate-affine"], verify=False).model)
        assert stay <= set(left)
    assert proved > 100
