"""Which readers of a DQ compute in INT8, and which only read rounded floats (rules P2, P3 and P6)."""

from __future__ import annotations

from edgedeploy.calibration.lint.scene import Pair, Q, Scene
from edgedeploy.core.operators import FUSED, LINEAR


def uses_int8(scene: Scene, index: int) -> bool:
    """Whether a node that reads a DQ runs in INT8, or hands INT8 on to one that does."""
    op, node = scene.op(index), scene.nodes[index]
    if index in scene.weighted:
        return scene.runs_int8(index)
    if op in scene.rules.norms:
        return True
    if op in scene.rules.never or op == Q:
        return False
    if op in scene.rules.pass_through | {"Pad"} or (op == "Concat" and all_dequantized(scene, index)):
        return any(
            scene.op(reader) == Q or uses_int8(scene, reader)
            for name in node.output
            for reader in scene.readers(name)
        )
    if op == "Add" and branch_of(scene, index) is not None:
        return True
    return writes_int8(scene, index) and all_dequantized(scene, index)


def all_dequantized(scene: Scene, index: int) -> bool:
    """Whether every computed input of a node comes from DQ."""
    return all(scene.is_dequantized(name) for name in scene.data_inputs(index))


def writes_int8(scene: Scene, index: int) -> bool:
    """Whether Q alone reads a node's outputs, directly or through an activation."""
    for name in scene.nodes[index].output:
        while scene.is_private(name) and scene.op(scene.readers(name)[0]) in FUSED:
            name = scene.nodes[scene.readers(name)[0]].output[0]
        readers = scene.readers(name)
        if name in scene.outputs or not readers or any(scene.op(reader) != Q for reader in readers):
            return False
    return True


def branch_of(scene: Scene, add: int) -> str | None:
    """The input of an Add whose weighted operator could fuse with it; None without one."""
    for name in scene.nodes[add].input:
        maker = scene.fused_from(name)
        if (
            maker >= 0
            and scene.is_private(name)
            and scene.op(scene.maker(name)) in LINEAR | {scene.op(maker)}
        ):
            return str(name)
    return None


def idle_readers(scene: Scene, pair: Pair) -> list[int]:
    """Readers of a pair that compute in float, without those that other rules judge."""
    return [
        index
        for index in scene.readers(pair.result)
        if not uses_int8(scene, index)
        and scene.op(index) != Q
        and scene.op(index) not in scene.rules.never
        and index not in scene.weighted
    ]
