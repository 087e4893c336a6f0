"""Binary networks on devices: products of signs in INT8, exact, on the runtimes that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedeploy.backend import BACKENDS, OpenOptions
from edgedeploy.calibration.place.ruleset import load_rules, rule_names
from edgedeploy.core.details import SignDetails
from edgedeploy.core.recipe import CaptureOptions, OptimizeOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import text_model
from edgedeploy.export.signs import quantize_signs
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import load
from edgedeploy.models import MODELS
from edgedeploy.models.layers.bivit import BinaryLinear
from tests.support.backend_contests import considered, fastest

PRODUCTS = 4 * (4 + 2)  # blocks; linear layers and products of attention
FORMS = ("int8", "int8-saturating", "uint8-saturating")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    info = MODELS.get("bivit_deit_micro")
    network = info.build().eval()
    for layer in network.modules():
        if isinstance(layer, BinaryLinear):  # branches as large as trained ones, which signs decide
            layer.reset_scales()
            nn.init.normal_(layer.bias, std=0.1)
    out = tmp_path_factory.mktemp("bivit") / "m.onnx"
    return capture(network, CaptureOptions(seeds=1), out, info=info, name="bivit_deit_micro")


def lowered(packed: Artifact, form: str, folder: Path) -> Artifact:
    result = quantize_signs(packed, form, OptimizeOptions(seeds=1), folder / f"{form}.onnx")
    assert result is not None
    return result


@pytest.mark.parametrize("form", FORMS)
def test_int8_form_is_the_same_to_the_last_bit(packed: Artifact, form: str, tmp_path: Path) -> None:
    result = lowered(packed, form, tmp_path)
    assert result.details.signs == SignDetails(form=form, products=PRODUCTS)
    before, after = onnx.load(packed.path), onnx.load(result.path)
    image = np.random.default_rng(5).standard_normal((1, 3, 32, 32)).astype(np.float32)
    want, got = Evaluator(before)({"image": image}), Evaluator(after)({"image": image})
    np.testing.assert_array_equal(want["logits"], got["logits"])
    made = {name: node.op_type for node in after.graph.node for name in node.output}
    behind = [[made.get(name) for name in n.input] for n in after.graph.node if n.op_type == "MatMul"]
    assert behind == [["DequantizeLinear", "DequantizeLinear"]] * PRODUCTS
    assert any(node.op_type == "Sign" for node in after.graph.node) is (form == "int8")


def test_a_network_without_signs_is_left_alone(tmp_path: Path) -> None:
    model = text_model("float[1,8] x", "y", "y = MatMul(x, w)", {"w": np.ones((8, 8), np.float32)})
    onnx.save(model, tmp_path / "m.onnx")
    assert (
        quantize_signs(Artifact.load(tmp_path / "m.onnx"), "int8", OptimizeOptions(), tmp_path / "o.onnx")
        is None
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_runtimes_of_this_machine_compute_it(packed: Artifact, backend: str, tmp_path: Path) -> None:
    runtime = BACKENDS.get(backend)
    if runtime.why_not():
        pytest.skip(runtime.why_not())
    form = lowered(packed, load_rules(load_target("cpu").rules(backend)).signs, tmp_path)
    image = np.random.default_rng(5).standard_normal((1, 3, 32, 32)).astype(np.float32)
    want = Evaluator(onnx.load(packed.path))({"image": image})["logits"]
    with runtime.open(form, OpenOptions()) as session:
        got = np.array(session({"image": image})["logits"])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("target", ["rtx-3060", "rtx-5070"])
def test_tensorrt_rtx_builds_it_with_fewer_kernels(packed: Artifact, target: str, tmp_path: Path) -> None:
    backend = BACKENDS.get("tensorrt-rtx")
    if backend.why_not():
        pytest.skip(backend.why_not())
    device = load_target(target).model_copy(update={"backends": ("tensorrt-rtx",)})
    form = lowered(packed, load_rules(device.rules("tensorrt-rtx")).signs, tmp_path)
    kept = fastest(packed, device, tmp_path / "a", forms={"tensorrt-rtx": form})
    plain = fastest(packed, device, tmp_path / "b")
    assert kept.details.signs.products == PRODUCTS
    assert kept.details.engine.kernels < plain.details.engine.kernels


def test_the_build_times_both_forms_and_checks_them(packed: Artifact, tmp_path: Path) -> None:
    target = load_target("cpu")
    target = target.model_copy(update={"backends": ("onnxruntime",), "qdq": {"onnxruntime": "onnxruntime"}})
    form = lowered(packed, "uint8-saturating", tmp_path)
    built = fastest(packed, target, tmp_path / "b", forms={"onnxruntime": form})
    names = considered(built)
    assert set(names) == {"onnxruntime", "onnxruntime, signs in INT8"}
    assert all(entry["milliseconds"] > 0 for entry in names.values())
    wrong = onnx.load(form.path)
    scale = next(t for t in wrong.graph.initializer if t.name.endswith("_one"))
    scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(1.5), scale.name))
    onnx.save(wrong, tmp_path / "w.onnx")
    bad = {"onnxruntime": form.model_copy(update={"path": tmp_path / "w.onnx"})}
    built = fastest(packed, target, tmp_path / "c", forms=bad)
    verdicts = {name: entry["verdict"] for name, entry in considered(built).items()}
    assert verdicts["onnxruntime, signs in INT8"].startswith("wrong results")
    assert verdicts["onnxruntime"] == "kept"


def test_every_rule_set_names_a_form() -> None:
    assert {load_rules(name).signs for name in rule_names()} == set(FORMS)


def test_a_file_of_others_is_packed_to_a_bit_a_weight(rng: np.random.Generator) -> None:
    signs = rng.choice((-1.0, 1.0), (768, 512)).astype(np.float32)
    model = text_model("float[4,768] x", "y", "y = MatMul(x, w)", {"w": signs * np.float32(0.3)})
    result = optimize(model)  # with the default passes, which must not expand it again
    assert [(step.name, step.reverted) for step in result.steps] == [("pack-binary-weights", False)]
    assert result.model.ByteSize() < signs.size / 8 + 4 * 512 + 10_000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w[:, :100], "gains too little"),
        (lambda w: w[:761], "multiple of 8"),
        (lambda w: w * np.linspace(1, 2, 768, dtype=np.float32)[:, None], "more than the values"),
        (lambda w: np.where(w == w[0, 0], 0, w), "more than the values"),
    ],
)
def test_weights_that_are_no_bits_are_left_alone(change: Any, why: str, rng: np.random.Generator) -> None:
    w = change(rng.choice((-1.0, 1.0), (768, 512)).astype(np.float32))
    if why == "gains too little":
        w = w[:64]
    model = text_model(f"float[4,{w.shape[0]}] x", "y", "y = MatMul(x, w)", {"w": w})
    applied = PASSES.get("pack-binary-weights").apply(load(model))
    assert applied.hits == 0
    assert why in applied.skipped[0].reason


@pytest.mark.parametrize(
    ("name", "body", "why"),
    [
        ("drop-before-sign", "a = Relu(x) \n y = Sign(a)", "Relu does not keep signs"),
        ("drop-before-sign", "a = Mul(x, n) \n y = Sign(a)", "not positive"),
        ("drop-before-sign", "a = Mul(x, big) \n y = Sign(a)", "may broadcast"),
        ("quantize-signs", "s = Sign(x) \n y = MatMul(x, x)", "more than -1, 0 and 1"),
        ("expand-binary-weights", "y = MatMul(x, n)", "more than -1, 0 and 1"),
        ("expand-binary-weights", "y = MatMul(x, x)", "not computed from a few constants"),
        ("hoist-quantize", "a = Relu(x) \n y = QuantizeLinear(a, one, z)", "nothing moves values"),
        ("saturate-sign", "s = Sign(x) \n y = QuantizeLinear(s, half, z)", "its scale is not 1"),
    ],
)
def test_what_a_pass_leaves_alone_it_gives_a_reason_for(name: str, body: str, why: str) -> None:
    w = {
        "n": np.full((4, 4), -2, np.float32), "big": np.ones((2, 4, 4), np.float32), "z": np.int8(0),
        "one": np.float32(1), "half": np.float32(0.5),
    }  # fmt: skip
    applied = PASSES.get(name).apply(load(text_model("float[4,4] x", "y", body, w)))
    assert applied.hits == 0
    assert why in " ".join(skipped.reason for skipped in applied.skipped)
