"""Operators that a target lacks: rewritten before anything is rounded, and still exact in float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgedeploy.backend import BACKENDS, BuildOptions
from edgedeploy.core.details import AdaptDetails
from edgedeploy.core.target import load_target, target_names
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.runner import optimize
from edgedeploy.export.samples import floats, text_model
from edgedeploy.graphs.feeds import random_feeds
from edgedeploy.graphs.run import Evaluator
from edgedeploy.graphs.surgeon import dtype_name, load, producer
from edgedeploy.models import create_model
from tests.support.deployments import deploy

DETECTOR = "dbnet_deformable_resnet18"
SMALL = ("capture.height=64", "capture.width=96", "capture.seeds=1", "optimize.seeds=1")


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a detector whose taps really move, by pixels and parts of pixels."""
    torch.manual_seed(0)
    network = create_model(DETECTOR).eval()
    for name, module in network.named_modules():
        if name.endswith("conv2_offset"):
            torch.nn.init.normal_(module.weight, 0, 0.02)
            torch.nn.init.normal_(module.bias, 0, 1)
    path = tmp_path_factory.mktemp("weights") / "moving.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector is captured once for all targets."""
    return tmp_path_factory.mktemp("cache")


def test_every_operator_that_a_target_lacks_has_a_pass_that_rewrites_it() -> None:
    lacking = {op for name in target_names() for op in load_target(name).unsupported_ops}
    assert "DeformConv" in lacking
    lowering = [name for name in PASSES.names() if name.startswith(("lower-", "decompose-"))]
    assert lacking <= {op for name in lowering for op in PASSES.get(name).ops}


# What the parser of each TensorRT has an importer for, by release of onnx-tensorrt.
NEWER = ("RMSNormalization", "Swish")
LACKING = {
    "8.2": ("Gelu", "GroupNormalization", "HardSwish", "LayerNormalization", "Mish", *NEWER),
    "8.5": ("DeformConv", "Gelu", "GroupNormalization", "LayerNormalization", "Mish", *NEWER),
    "10.3": ("GroupNormalization", *NEWER),
    "RTX 1.7": ("DeformConv",),
    "of your choice": (),
}


@pytest.mark.parametrize("name", [name for name in target_names() if load_target(name).cpu is None])
def test_a_target_lists_what_its_tensorrt_lacks(name: str) -> None:
    target = load_target(name)
    jetpack = {"5.3": "8.2", "7.2": "8.5", "8.7": "10.3"}.get(target.compute_capability or "")
    release = jetpack or ("RTX 1.7" if "tensorrt-rtx" in target.backends else "of your choice")
    assert set(target.unsupported_ops) == set(LACKING[release])
    assert target.newest_opset == {"8.2": 13, "8.5": 17, "10.3": 20}.get(release)


DECOMPOSED = sorted(
    {op for name in PASSES.names() if name.startswith("decompose-") for op in PASSES.get(name).ops}
)


@pytest.mark.parametrize("op", DECOMPOSED)
def test_tensorrt_rtx_reads_what_its_targets_do_not_list(op: str, rng: np.random.Generator) -> None:
    sdk = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    passes = [PASSES.get(name) for name in PASSES.names() if name.startswith("decompose-")]
    (model,) = [item.examples(rng)[0][0] for item in passes if op in item.ops]
    logger = sdk.Logger(sdk.Logger.ERROR)
    builder = sdk.Builder(logger)
    network = builder.create_network(0)  # the parser does not keep it alive
    parser = sdk.OnnxParser(network, logger)
    assert parser.parse(model.SerializeToString()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]


def test_a_detector_is_rewritten_for_a_target_without_deformable_convolution(
    cache: Path, moving: Path
) -> None:
    plain, _ = deploy(DETECTOR, cache, *SMALL, until="optimize", weights=str(moving))
    half, listener = deploy(DETECTOR, cache, *SMALL, until="lower", target="rtx-3060", weights=str(moving))
    assert "DeformConv" in kinds(plain.path)
    assert "DeformConv" not in kinds(half.path)
    assert "GridSample" in kinds(half.path)
    assert half.precision == "fp16"
    steps = [step.name for step in half.history]
    assert steps.index("lower-deform-conv") < steps.index("to-fp16")
    assert [title for title, _ in listener.stages].count("rewrite operators that the target lacks") == 1
    assert half.details.adapted == AdaptDetails(ops=("DeformConv",))

    exact, rounded = Evaluator(onnx.load(plain.path)), Evaluator(onnx.load(half.path))
    for seed in range(3):
        feeds = random_feeds(exact.inputs, np.random.default_rng(seed))
        (want,), (have,) = exact(feeds).values(), rounded(feeds).values()
        assert want.std() > 0.01  # a map that shows something
        assert np.abs(have - want).max() <= 5e-3 * np.abs(want).max()


def test_a_target_that_has_the_operator_keeps_it(cache: Path, moving: Path) -> None:
    artifact, listener = deploy(
        DETECTOR, cache, *SMALL, "precision=fp32", target="t4", until="lower", weights=str(moving)
    )
    assert "DeformConv" in kinds(artifact.path)
    assert not artifact.details.adapted.ops
    assert not any("lacks" in title for title, _ in listener.stages)


def test_openvino_gets_the_rewritten_detector(cache: Path, moving: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    adapted, _ = deploy(DETECTOR, cache, *SMALL, "precision=fp32", until="replace", weights=str(moving))
    backend = BACKENDS.get("openvino")
    built = backend.build(adapted, load_target("cpu"), BuildOptions(), tmp_path / "built.onnx")
    with backend.open(built) as session:
        assert session.outputs


@pytest.mark.parametrize(("target", "capability"), [("rtx-3060", "8.6"), ("rtx-5070", "12.0")])
def test_the_rewritten_detector_builds(cache: Path, moving: Path, target: str, capability: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    built, _ = deploy(DETECTOR, cache, *SMALL, "precision=fp16", target=target, weights=str(moving))
    assert (built.kind, built.precision, built.backend) == ("engine", "fp16", "tensorrt-rtx")
    assert built.details.compute_capability == capability


def test_what_cannot_be_rewritten_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    weights = {"w": floats(rng, 5, 4, 3, 3), "v": floats(rng, 18, 4, 3, 3)}
    body = "o = Conv<pads=[1,1,1,1]>(x, v) \n y = DeformConv<pads=[1,1,1,1]>(x, w, o)"
    onnx.save(text_model("float[1,4,h,w0] x", "y", body, weights), tmp_path / "open.onnx")
    artifact, listener = deploy(tmp_path / "open.onnx", tmp_path / "cache", until="lower", target="rtx-3060")
    assert "DeformConv" in kinds(artifact.path)
    said = [note for note in listener.notes if "DeformConv" in note]
    assert said == ["DeformConv stays, which the target lacks: the input has no fixed size"]


WIDE = 4096


def wide_model(rng: np.random.Generator) -> onnx.ModelProto:
    """A deformable convolution over an image so wide that float16 cannot count its pixels."""
    weights = {"w": floats(rng, 4, 3, 3, 3), "v": floats(rng, 18, 3, 3, 3)}
    body = "o = Conv<pads=[1,1,1,1]>(x, v) \n y = DeformConv<pads=[1,1,1,1]>(x, w, o)"
    return text_model(f"float[1,3,4,{WIDE}] x", "y", body, weights)


def error_of_fp16(model: onnx.ModelProto) -> float:
    lowered = optimize(model, ["lower-deform-conv"])
    assert [(step.name, step.reverted) for step in lowered.steps] == [("lower-deform-conv", False)]
    assert lowered.steps[0].granted is None  # the promise itself holds
    half = optimize(lowered.model, ["to-fp16"], verify=False).model
    exact, rounded = Evaluator(model), Evaluator(half)
    feeds = random_feeds(exact.inputs, np.random.default_rng(1))
    (want,), (have,) = exact(feeds).values(), rounded(feeds).values()
    return float(np.abs(have - want).max() / np.abs(want).max())


def test_places_keep_the_bits_that_float16_has_not(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wide_model(rng)
    kept = error_of_fp16(model)
    monkeypatch.setattr("edgedeploy.export.passes.to_fp16.sampling_coordinates", lambda graph: set())  # noqa: ARG005
    lost = error_of_fp16(model)
    assert kept < 5e-3
    assert lost > 20 * kept


def test_all_that_leads_to_a_place_stays_float32_and_the_layers_do_not(rng: np.random.Generator) -> None:
    graph = load(optimize(wide_model(rng), ["lower-deform-conv", "to-fp16"], verify=False).model)
    (sampler,) = [node for node in graph.nodes if node.op == "GridSample"]
    waiting, met = [sampler.inputs[1]], []
    while waiting:
        tensor = waiting.pop()
        maker = producer(tensor)
        if maker is None:
            assert dtype_name(tensor) in {"float32", "int64"}
        elif maker.op != "Cast":
            assert dtype_name(maker.outputs[0]) == "float32", maker.op
            met.append(maker.op)
            waiting += maker.inputs
        else:
            met.append(producer(maker.inputs[0]).op)
    assert sorted(met) == sorted(["Add", "Sub", "Div", "Gather", "Transpose", "Reshape", "Conv"])
    assert {dtype_name(node.outputs[0]) for node in graph.nodes if node.op == "Conv"} == {"float16"}
