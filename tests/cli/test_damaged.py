"""Damaged and hostile ONNX files: one clear error each, before anything of the claimed size is allocated."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.api import optimize
from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.graphs.read import read_model
from tests.cli.conftest import Cli

HUGE = 10**9  # two of them make 1e18 elements


def sound() -> onnx.ModelProto:
    """y = Relu(Conv(x, w))."""
    w = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first"),
        helper.make_node("Relu", ["c"], ["y"], "second"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def self_reader(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "y"


def no_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[:]


def no_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "z"


def raw_too_short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = bytes(10)


def claims_a_huge_weight(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([HUGE, HUGE])


def no_values(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -4


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def wrong_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int64), "w"))


def two_makers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["c"], "third"))


def clash_with_weight(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["w"], "third"))


def two_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def far_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 999


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Reluu"


def unnamed_domain(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "my.company"


def body_reads_nothing(model: onnx.ModelProto) -> None:
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Neg", ["ghost"], ["b"])], "body", [], [y])
    condition = numpy_helper.from_array(np.array(True), "t")
    model.graph.initializer.append(condition)
    model.graph.node.append(helper.make_node("If", ["t"], ["i"], "if", then_branch=body, else_branch=body))


def external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)

    return change


DAMAGE: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (circle, "has a cycle"),
    (self_reader, "has a cycle"),
    (no_initializer, "Conv 'first' reads 'w', which nothing makes"),
    (no_output, "nothing makes output 'z'"),
    (raw_too_short, "'w' of shape [4, 3, 3, 3] needs 432 bytes and has 10"),
    (claims_a_huge_weight, "needs 4000000000000000000 bytes and has 432"),
    (no_values, "needs 108 values and has 0"),
    (negative, "negative size"),
    (unknown_type, "none of ONNX"),
    (wrong_type, "Conv"),
    (two_makers, "'c' is made twice, the second time by Relu 'third'"),
    (clash_with_weight, "'w' is made twice"),
    (two_weights, "two initializers are called 'w'"),
    (far_opset, "opset 999"),
    (unknown_operator, "ONNX has no Reluu 'second' in opset 19"),
    (unnamed_domain, "domain 'my.company', of which the file names no version"),
    (body_reads_nothing, "Neg reads 'ghost', which nothing makes"),
    (external("../secret"), "outside the model's folder"),
    (external("/etc/passwd"), "outside the model's folder"),
    (external(""), "outside the model's folder"),
    (external("link"), "outside the model's folder"),
    (external("absent"), "'w' are missing: absent"),
    (external("short"), "needs 432 bytes and has 5"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGE, ids=[says for _, says in DAMAGE])
@pytest.mark.parametrize("verb", ["optimize", "export"])
def test_damage_is_named(
    verb: str, change: Callable[[onnx.ModelProto], None], says: str, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(432))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "short").write_bytes(bytes(5))
    model = sound()
    change(model)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    outcome = cli(verb, path, "-o", tmp_path / "out.onnx")
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert outcome.code == 2, outcome.err
    assert len(errors) == 1
    assert says in errors[0]
    assert "hint:" in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a whole ONNX file"),
        (b"hello, this is a text", "not a whole ONNX file"),
        (sound().SerializeToString()[:-40], "not a whole ONNX file"),
    ],
)
def test_what_is_no_model_is_said_so(data: bytes, says: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as error:
        read_model(path)
    assert says in str(error.value)
    assert error.value.hint
    assert cli("optimize", path, "-o", tmp_path / "out.onnx").code == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_a_sound_model_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(sound(), path)
    assert read_model(path) == sound()


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(sound(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (weight,) = read_model(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), np.ones((4, 3, 3, 3)))


def with_huge_input() -> onnx.ModelProto:
    model = sound()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = HUGE
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = HUGE
    return model


def with_huge_constant() -> onnx.ModelProto:
    model = sound()
    model.graph.initializer.append(numpy_helper.from_array(np.array([HUGE, HUGE]), "shape"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["many"], "many"))
    model.graph.node.append(helper.make_node("ReduceSum", ["many"], ["sum"], "sum"))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize("make", [with_huge_input, with_huge_constant])
def test_what_cannot_be_computed_is_not_tried(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """1e18 elements: no proof, said at once; without proof the passes run, and allocate nothing like it."""
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(make(), path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"[134]\.0e\+18 elements") as error:
        optimize(path, out)
    assert "--no-verify" in error.value.hint
    assert not out.exists()
    optimize(path, out, verify=False)
    assert len(onnx.load(out).graph.node) == len(make().graph.node)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # kilobytes
