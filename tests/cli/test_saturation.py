"""Files with INT8 weights that a CPU without VNNI would add wrongly: found, told, run exactly, mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.backend import BACKENDS, BuildOptions, OpenOptions
from edgedeploy.calibration import load_rules
from edgedeploy.core.artifact_warnings import artifact_warnings, saturation
from edgedeploy.core.cpu import OVERRIDE
from edgedeploy.core.errors import BuildError
from edgedeploy.core.int8_layers import saturating_layers
from edgedeploy.core.parity import compare
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target, this_cpu
from tests.cli.conftest import Cli
from tests.support.qdq_nets import Net, feed, quantized, run


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine counts as one whose kernels saturate."""
    monkeypatch.setenv(OVERRIDE, "x86-avx2")
    yield
    this_cpu.cache_clear()


def network() -> onnx.ModelProto:
    net = Net(1, 3, 16, 16)
    net.op("Relu", "r0", net.conv("stem", "x", 3, 32))
    net.op("Relu", "r1", net.conv("dw", "r0", 32, 32, group=32))
    net.op("Relu", "r2", net.conv("pw", "r1", 32, 32, kernel=1))
    net.conv("head", "r2", 32, 32)
    model = net.model("head")
    del model.metadata_props[:]
    return model


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A file with all 8 bits, as it is made for CPUs with VNNI."""
    model, _ = quantized(network(), load_rules("openvino").with_options(last=True))
    onnx.save(model, tmp_path / "whole.onnx")
    return tmp_path / "whole.onnx"


def test_layers_are_found_in_every_form_that_codes_are_kept_in(whole: Path, tmp_path: Path) -> None:
    found = saturating_layers(whole)
    assert set(found.names) == {"stem", "pw", "head"}, "depthwise kernels add in 32 bits"
    assert (found.of, found.shared_zeros) == (4, False)
    model = onnx.load(whole)
    graph = model.graph
    words, constants = onnx.ModelProto.FromString(model.SerializeToString()), model
    for entry in words.graph.initializer:
        if entry.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(entry)
            entry.CopyFrom(helper.make_tensor(entry.name, TensorProto.INT8, value.shape, value.reshape(-1)))
    onnx.save(words, tmp_path / "words.onnx")
    assert saturating_layers(tmp_path / "words.onnx") == found
    for entry in list(graph.initializer):
        if entry.data_type == TensorProto.INT8:
            graph.node.insert(0, helper.make_node("Constant", [], [entry.name], value=entry))
            graph.initializer.remove(entry)
    onnx.save(constants, tmp_path / "constants.onnx")
    assert saturating_layers(tmp_path / "constants.onnx") == found


def test_layers_on_codes_and_shared_zero_points_are_found(tmp_path: Path) -> None:
    zeros = {"s": np.float32(0.02), "z": np.uint8(0), "wz": np.int8(0)}
    values = {**zeros, "w": np.full((8, 4, 1, 1), 100, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "wz", "s", "z"], ["y"], "codes"),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["b"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 2, 2))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "codes.onnx")
    found = saturating_layers(tmp_path / "codes.onnx")
    assert (found.names, found.of, found.shared_zeros) == (("codes",), 1, True)


def test_weights_alone_in_int8_do_not_saturate(whole: Path, tmp_path: Path) -> None:
    """Without codes of activations the products are float."""
    model = onnx.load(whole)
    pairs = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    floats = {n.output[0]: pairs[n.input[0]] for n in model.graph.node if n.input[0] in pairs}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = floats.get(name, name)
    kept = [n for n in model.graph.node if n.output[0] not in {*pairs, *floats}]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, tmp_path / "weights.onnx")
    assert saturating_layers(tmp_path / "weights.onnx").names == ()


@pytest.mark.parametrize("rules", ["openvino-avx2", "onnxruntime-avx2"])
def test_what_is_quantized_for_such_a_cpu_cannot_saturate(rules: str, tmp_path: Path) -> None:
    model = network()
    result, _ = quantized(model, load_rules(rules).with_options(last=True))
    onnx.save(result, tmp_path / "limited.onnx")
    found = saturating_layers(tmp_path / "limited.onnx")
    assert (found.names, found.of) == ((), 4)
    assert compare(run(model, feed(model))[0], run(result, feed(model))[0]).sqnr_db > 25


@pytest.mark.usefixtures("avx2")
def test_people_are_told_what_to_type(whole: Path, cli: Cli) -> None:
    (line,) = artifact_warnings(Artifact.load(whole))
    assert "3 of 4 INT8 layers can saturate on this CPU (x86-avx2)" in line
    assert "edgedeploy build" in line
    noted = cli("bench", f"{whole}@onnxruntime", "--runs", 2)
    assert noted.code == 0, noted.err
    assert "can saturate" in noted.out + noted.err


def test_a_cpu_that_adds_in_32_bits_says_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "x86-vnni")
    assert artifact_warnings(Artifact.load(whole)) == []
    assert saturation(Artifact.load(whole), load_target("x86-avx2")).names


@pytest.mark.usefixtures("avx2")
def test_onnxruntime_computes_such_a_file_exactly(whole: Path) -> None:
    """Red without its option on every CPU without VNNI; here at least the option's kernels are right."""
    pytest.importorskip("onnxruntime")
    model = onnx.load(whole)
    artifact, x = Artifact.load(whole), feed(model)
    with BACKENDS.get("onnxruntime").open(artifact, OpenOptions()) as session:
        assert compare(run(model, x)[0], session({"x": x})["head"]).sqnr_db > 40


@pytest.mark.usefixtures("avx2")
def test_openvino_builds_no_such_file_and_the_hint_mends_it(whole: Path, tmp_path: Path, cli: Cli) -> None:
    backend, target = BACKENDS.get("openvino"), load_target("cpu")
    if backend.why_not():
        pytest.skip("openvino is not installed")
    with pytest.raises(BuildError, match="3 of 4 INT8 layers can saturate on x86-avx2") as refused:
        backend.build(Artifact.load(whole), target, BuildOptions(), tmp_path / "built.onnx")
    assert f"edgedeploy lint {whole.name} --for cpu --fix -o FIXED.onnx" in refused.value.hint
    fixed = tmp_path / "fixed.onnx"
    assert cli("lint", whole, "--for", "cpu", "--only", "ED118", "--fix", "-o", fixed).code == 0
    built = backend.build(Artifact.load(fixed), target, BuildOptions(), tmp_path / "built.onnx")
    assert built.details.cpu == "x86-avx2", "the artifact says what it was made for"
    model = onnx.load(whole)
    with backend.open(built) as session:
        x = feed(model)
        assert compare(run(onnx.load(fixed), x)[0], session({"x": x})["head"]).sqnr_db > 40
        assert compare(run(model, x)[0], session({"x": x})["head"]).sqnr_db > 25


def test_build_for_another_cpu_says_where_it_was_timed(tmp_path: Path, cli: Cli) -> None:
    onnx.save(network(), tmp_path / "float.onnx")
    other = "x86-avx2" if load_target("cpu").cpu_class != "x86-avx2" else "x86-vnni"
    out = tmp_path / "built.onnx"
    done = cli("build", tmp_path / "float.onnx", "--target", other, "-o", out)
    assert done.code == 0, done.err
    assert f"on {other} another runtime or precision may be faster" in done.out + done.err
    assert Artifact.load(out).details.cpu == other
