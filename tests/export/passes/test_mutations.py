"""Each pass broken on purpose, one operator or number of its code at a time: the tests of its cases go red.

What they ask of a case, see tests/export/test_passes.py: that the pass fires on it, and that what comes out
computes the same. Were no mutant found by that, cases or comparison would be too weak. Where the formula of
a pass stands in another file of export/, that file is broken. Rules of moving scales have tests of their
own, test_affine_mutations.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from edgedeploy.core.parity import of_pass
from edgedeploy.export import graph_pass as base
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.prove.proof import Refuted, output_difference
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.run import Evaluator, NotRunnable
from edgedeploy.graphs.surgeon import dump, load

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas()}
PLAIN = {f"edgedeploy.export.{name}" for name in ("graph", "shapes", "order", "weights")}
# What drop-dead drops, `tidy` does, which runs behind every pass.
KEEPING = [name for name in PASSES.names() if PASSES.get(name).keeps_contract and name != "drop-dead"]


def files(item: GraphPass) -> list[Any]:
    """The module that a pass is written in, and those of export/ that its formula may stand in."""
    own = sys.modules[inspect.unwrap(item.rewrite).__module__]
    names = [
        node.module or ""
        for node in ast.parse(inspect.getsource(own)).body
        if isinstance(node, ast.ImportFrom)
    ]
    helpers = [name for name in names if name.startswith("edgedeploy.export.") and name not in PLAIN]
    return [own, *(sys.modules[name] for name in helpers if ".passes." not in name)]


def sites(tree: ast.Module) -> Iterator[Callable[[], None]]:
    """Changes of one place each, to a tree that is parsed anew for every one of them."""
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef) or function.name == "cases":
            continue
        for node in (inner for statement in function.body for inner in ast.walk(statement)):
            if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
                yield lambda node=node: setattr(node, "op", SWAPPED[type(node.op)]())
            elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
                yield lambda node=node: node.ops.__setitem__(0, SWAPPED[type(node.ops[0])]())
            elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
                yield lambda node=node: setattr(node, "value", node.value + 1)
            elif isinstance(node, ast.Constant) and node.value in OPERATORS:
                yield lambda node=node: setattr(node, "value", "Neg" if node.value != "Neg" else "Abs")
            elif isinstance(node, ast.If):
                yield lambda node=node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                yield lambda node=node: setattr(node, "op", ast.UAdd())


def mutants(item: GraphPass, monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphPass]:
    """The pass with one place changed, file by file, last place first: formulas stand at the end."""
    own, *helpers = files(item)
    made: list[GraphPass] = []

    def keep(name: str, **words: Any) -> Callable[[Callable[..., int]], GraphPass]:
        def enter(rewrite: Callable[..., int]) -> GraphPass:
            made.append(GraphPass(rewrite, name, **words))
            return made[-1]

        return enter

    monkeypatch.setattr(base, "graph_pass", keep)
    for module in (own, *helpers):
        source = inspect.getsource(module)
        for place in range(sum(1 for _ in sites(ast.parse(source))) - 1, -1, -1):
            tree = ast.parse(source)
            list(sites(tree))[place]()
            broken = executed(module, tree)
            if module is not own:
                executed(own, ast.parse(inspect.getsource(own)), broken)
            yield made[-1]


def executed(module: Any, tree: ast.Module, instead: dict[str, Any] | None = None) -> dict[str, Any]:
    """The names of a module whose code was changed, or which reads those of another that was."""
    names: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(ast.fix_missing_locations(tree), module.__file__, "exec"), names)  # noqa: S102
    other = instead or names
    read = {
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == other["__name__"]
    }
    names.update({name: value for name, value in other.items() if name in read})
    return names


def is_red(item: GraphPass, mutant: GraphPass) -> bool:
    """Whether some case of the pass shows the mutant: it does not fire, or something differs."""
    for model, options in item.examples(np.random.default_rng(0)):
        graph = load(model)
        try:
            fired = mutant.apply(graph, options).hits
            changed = Evaluator(dump(graph))
        except Exception:  # noqa: BLE001  whatever a broken pass raises
            return True
        if not fired or not agree(model, changed, item.atol):
            return True
    return False


def agree(model: onnx.ModelProto, changed: Evaluator, atol: float) -> bool:
    try:
        draws = feed_sets(Evaluator(model), 1)
        found = (output_difference(expected, changed(feeds)) for feeds, expected in draws)
        return all(map(of_pass(atol).accepts, found))
    except (Refuted, NotRunnable):
        return False


@pytest.mark.parametrize("name", KEEPING)
def test_a_pass_that_is_broken_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    item = PASSES.get(name)
    assert not is_red(item, item)
    assert any(is_red(item, mutant) for mutant in mutants(item, monkeypatch))
