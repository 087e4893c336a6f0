"""Random graphs of what scales and shifts pass, from lists of integers, so that they can be made smaller.

Every program is valid: a step that does not fit the tensor it names is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedeploy.export.runner import optimize
from edgedeploy.graphs.run import Evaluator

Step: TypeAlias = tuple[int, int, int]  # operator, tensor counted from the last, variant
Shape: TypeAlias = tuple[int, ...]
SIDE = 4  # channels, height and width alike: an axis taken for another one then goes through
LARGEST = 4096  # values of a tensor
PASSES = (
    "fold-batchnorm",
    "fold-mul-add",
    "propagate-affine",
    "merge-affine-chain",
    "merge-parallel-affine",
)
OPSET = 20


@dataclass
class Net:
    """A graph in the making."""

    rng: np.random.Generator
    tensors: list[tuple[str, Shape]] = field(default_factory=lambda: [("x", (1, SIDE, SIDE, SIDE))])
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, values: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def factors(self, *shape: int) -> str:
        """Away from 0, of both signs."""
        sign = self.rng.choice([1, 1, -1], shape)
        return self.constant((sign * self.rng.uniform(0.4, 2, shape)).astype(np.float32))

    def add(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: Any) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attrs))
        self.tensors.append((name, shape))


def conv(net: Net, x: str, shape: Shape, variant: int) -> None:
    _, c, h, w = shape
    if c % 2:
        return
    groups, k = (2 if variant & 1 else 1), (3 if variant & 2 else 1)
    pad = k // 2 if variant & 4 else 0
    if h + 2 * pad < k or w + 2 * pad < k:
        return
    inputs = [x, net.floats(SIDE, c // groups, k, k, scale=(c // groups * k * k) ** -0.5)]
    inputs += [net.floats(SIDE)] if variant & 8 else []
    size = (h + 2 * pad - k + 1, w + 2 * pad - k + 1)
    net.add("Conv", inputs, (1, SIDE, *size), group=groups, pads=[pad] * 4)


def deconv(net: Net, x: str, shape: Shape, variant: int) -> None:
    _, c, h, w = shape
    if c % 2 or h * w > 64:
        return
    groups = 2 if variant & 1 else 1
    weight = net.floats(c, SIDE // groups, 2, 2, scale=c**-0.5)
    net.add("ConvTranspose", [x, weight], (1, SIDE, 2 * h, 2 * w), group=groups, strides=[2, 2])


def norm(net: Net, x: str, shape: Shape, variant: int) -> None:
    c = shape[1]
    variance = net.constant(net.rng.uniform(0.5, 2, c).astype(np.float32))
    net.add("BatchNormalization", [x, net.factors(c), net.floats(c), net.floats(c), variance], shape)


def arithmetic(net: Net, x: str, shape: Shape, variant: int) -> None:
    op = ("Mul", "Add", "Sub", "Div")[variant & 3]
    kind = net.factors if op in ("Mul", "Div") else net.floats
    axis = 1 if variant & 4 else len(shape) - 1
    k = kind(*[n if place == axis else 1 for place, n in enumerate(shape)])
    swapped = variant & 8 and op != "Div"
    net.add(op, [k, x] if swapped else [x, k], shape)


def activation(net: Net, x: str, shape: Shape, variant: int) -> None:
    op = ("Relu", "LeakyRelu", "Abs", "PRelu", "Sigmoid", "Relu")[variant % 6]
    slope = [net.constant(np.full((shape[1], *[1] * (len(shape) - 2)), 0.2, np.float32))]
    net.add(op, [x, *(slope if op == "PRelu" else [])], shape)


def resize(net: Net, x: str, shape: Shape, variant: int) -> None:
    n, c, h, w = shape
    mode = ("linear", "nearest", "cubic")[variant % 3]
    attrs: dict[str, Any] = {"mode": mode}
    roi = ""
    if variant & 4:
        attrs["coordinate_transformation_mode"] = "align_corners"
    if variant & 8 and mode == "linear":
        attrs |= {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5}
        roi = net.constant(np.array([0, 0, -0.6, 0, 1, 1, 1.6, 1], np.float32))
    scales = net.constant(np.array([1, 1, 2, 1], np.float32))
    net.add("Resize", [x, roi, scales], (n, c, 2 * h, w), **attrs)


def pool(net: Net, x: str, shape: Shape, variant: int) -> None:
    n, c, h, w = shape
    if variant % 5 == 0:
        net.add("GlobalAveragePool", [x], (n, c, 1, 1))
        return
    op = "MaxPool" if variant & 1 else "AveragePool"
    padded = {"pads": [1, 1, 1, 1]} if variant & 2 else {}
    counted = {"count_include_pad": 1} if variant & 4 and op == "AveragePool" else {}
    more = 0 if padded else -2
    if h + more > 0 and w + more > 0:
        net.add(op, [x], (n, c, h + more, w + more), kernel_shape=[3, 3], **padded, **counted)


def transpose(net: Net, x: str, shape: Shape, variant: int) -> None:
    perms = {4: ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 2, 1, 3]), 3: ([0, 2, 1],)}
    choices = perms.get(len(shape), ([1, 0],))
    perm = choices[variant % len(choices)]
    if shape[perm[0]] == 1 or len(shape) == 2:
        net.add("Transpose", [x], tuple(shape[axis] for axis in perm), perm=perm)


def reshape(net: Net, x: str, shape: Shape, variant: int) -> None:
    choices: list[Shape] = [(shape[0], shape[1], int(np.prod(shape[2:])))]
    if len(shape) == 4:
        choices += [(1, int(np.prod(shape[1:]))), (1, shape[1], shape[3], shape[2])]
    if len(shape) == 3 and shape[2] % 2 == 0:
        choices += [(1, shape[1], shape[2] // 2, 2), (1, shape[1] * shape[2])]
    new = choices[variant % len(choices)]
    net.add("Reshape", [x, net.constant(np.array(new))], new)


def matmul(net: Net, x: str, shape: Shape, variant: int) -> None:
    weight = net.floats(shape[-1], SIDE, scale=shape[-1] ** -0.5)
    if len(shape) == 2 and variant & 1:
        net.add("Gemm", [x, weight, net.floats(SIDE)], (*shape[:-1], SIDE), alpha=0.5)
    else:
        net.add("MatMul", [x, weight], (*shape[:-1], SIDE))


def pad(net: Net, x: str, shape: Shape, variant: int) -> None:
    n, c, h, w = shape
    mode = ("constant", "reflect", "edge", "constant")[variant & 3]
    if h < 2 or h > 16:
        return
    filler = [net.constant(np.float32(0.5))] if variant & 4 and mode == "constant" else []
    net.add(
        "Pad", [x, net.constant(np.array([0, 0, 1, 0, 0, 0, 1, 0])), *filler], (n, c, h + 2, w), mode=mode
    )


def depth(net: Net, x: str, shape: Shape, variant: int) -> None:
    n, c, h, w = shape
    if variant & 1 and c % 4 == 0:
        mode = "CRD" if variant & 2 else "DCR"
        net.add("DepthToSpace", [x], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
    elif h % 2 == 0 and w % 2 == 0:
        net.add("SpaceToDepth", [x], (n, 4 * c, h // 2, w // 2), blocksize=2)


def cut(net: Net, x: str, shape: Shape, variant: int) -> None:
    axis = 1 + variant % (len(shape) - 1)
    size = shape[axis]
    if size < 4:
        return
    start, end = (size // 2, size) if variant & 4 else (0, size // 2)
    new = tuple(size // 2 if place == axis else n for place, n in enumerate(shape))
    if variant & 8:
        net.add("Gather", [x, net.constant(np.arange(start, end)[::-1].copy())], new, axis=axis)
    else:
        bounds = [net.constant(np.array([value])) for value in (start, end, axis)]
        net.add("Slice", [x, *bounds], new)


def concat(net: Net, x: str, shape: Shape, variant: int) -> None:
    fitting = [(t, s) for t, s in net.tensors if len(s) == len(shape) and s[0] == 1 and s[2:] == shape[2:]]
    other, more = fitting[-1 - variant % len(fitting)]
    net.add("Concat", [x, other], (1, shape[1] + more[1], *shape[2:]), axis=1)


def both(net: Net, x: str, shape: Shape, variant: int) -> None:
    fitting = [t for t, s in net.tensors if s == shape and t != x]
    if fitting:
        op = ("Add", "Add", "Sub", "Mul")[variant & 3]
        net.add(op, [x, fitting[-1 - (variant >> 2) % len(fitting)]], shape)


Maker: TypeAlias = Callable[[Net, str, Shape, int], None]
OPERATORS: dict[str, tuple[Maker, int | None]] = {  # with the rank that they need
    "conv": (conv, 4),
    "norm": (norm, None),
    "arithmetic": (arithmetic, None),
    "activation": (activation, None),
    "both": (both, None),
    "concat": (concat, None),
    "pool": (pool, 4),
    "resize": (resize, 4),
    "transpose": (transpose, None),
    "reshape": (reshape, None),
    "matmul": (matmul, None),
    "pad": (pad, 4),
    "depth": (depth, 4),
    "cut": (cut, None),
    "deconv": (deconv, 4),
}
NAMES = tuple(OPERATORS)
# Half of what is drawn makes or takes a scale and a shift: a path between both must be short to be likely.
MIXED = ("conv", "conv", "norm", "norm", "conv", "norm", "arithmetic", "matmul", "both", *NAMES)


def build(seed: int, steps: Sequence[Step], names: Sequence[str] = MIXED, middle: int = 0) -> onnx.ModelProto:
    """The model of a program; what nobody reads is an output, and sometimes a tensor in the middle too."""
    net = Net(np.random.default_rng(seed))
    for operator, back, variant in steps:
        make, rank = OPERATORS[names[operator % len(names)]]
        x, shape = net.tensors[-1 - back % len(net.tensors)]
        before = len(net.nodes)
        if len(shape) == 2 and make is transpose:
            continue
        if rank is None or len(shape) == rank:
            make(net, x, shape, variant)
        if len(net.nodes) > before and int(np.prod(net.tensors[-1][1])) > LARGEST:
            net.nodes.pop()
            net.tensors.pop()
    read = {name for node in net.nodes for name in node.input}
    made = net.tensors[1:]
    outputs = [entry for entry in made if entry[0] not in read]
    if middle and made and (extra := made[middle % len(made)]) not in outputs:
        outputs.append(extra)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, net.tensors[0][1])
    graph = helper.make_graph(net.nodes, "random", [image], infos, net.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def error_of(model: onnx.ModelProto, passes: Sequence[str] = PASSES) -> tuple[float, int]:
    """(largest difference relative to its output's largest value, rewrites), nothing proved on the way."""
    result = optimize(model, passes, verify=False)
    assert not result.offences, result.problems()
    if not result.steps:
        return 0.0, 0
    feeds = {"x": np.random.default_rng(1).standard_normal((1, SIDE, SIDE, SIDE)).astype(np.float32)}
    before, after = Evaluator(model)(feeds), Evaluator(result.model)(feeds)
    assert list(before) == list(after)
    worst = 0.0
    for name, y in before.items():
        worst = max(worst, float(np.abs(after[name] - y).max() / max(np.abs(y).max(), 1e-2)))
    return worst, sum(step.hits for step in result.steps)
