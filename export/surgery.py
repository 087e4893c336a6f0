"""Graph passes at the level of artifacts: which to run, what they say of themselves, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.details import AdaptDetails, Details, OptimizeDetails
from edgedeploy.core.errors import ParityError, UnknownNameError, UsageError
from edgedeploy.core.recipe import SurgeryOptions
from edgedeploy.core.spec import Artifact
from edgedeploy.export.embed import embed_argmax, embed_preprocess, embed_uint8_output
from edgedeploy.export.graph_pass import PASSES
from edgedeploy.export.order import DEFAULT_PASSES, default_passes
from edgedeploy.export.passes.lower_opset import NewestOpset
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.graphs.metadata import save_model
from edgedeploy.graphs.opset import opset_of


def operate(artifact: Artifact, options: SurgeryOptions, out: Path) -> Artifact:
    """Run the passes that `options` asks for on an ONNX artifact and write the result to `out`.

    Every accepted pass becomes an entry of the history; `details.surgery` has the node counts and, as
    `problems`, what was reverted or could not be read, and why. Raises UnknownNameError for a pass to skip
    that does not exist.
    """
    for name in options.skip:
        if name not in PASSES.names():
            raise UnknownNameError("pass", name, PASSES.names())
    model = onnx.load(artifact.path)
    passes = [name for name in DEFAULT_PASSES if name not in options.skip]
    result = optimize(model, passes, verify=options.verify, seeds=options.seeds)
    operated = save_model(result.model, recorded(artifact, model, result), out)
    if options.preprocess or options.uint8_input:
        operated = embed_preprocess(
            operated, out, uint8_input=options.uint8_input, verify=options.verify, seeds=options.seeds
        )
    if options.argmax:
        operated = embed_argmax(operated, out, verify=options.verify, seeds=options.seeds)
    if options.uint8_output:
        operated = embed_uint8_output(operated, out, verify=options.verify, seeds=options.seeds)
    return operated


def passes_that_lower(ops: Sequence[str]) -> list[str]:
    """Names of the passes that write these operators with others: `lower-*` and `decompose-*`."""
    return [
        name
        for name in PASSES.names()
        if name.startswith(("lower-", "decompose-")) and {*PASSES.get(name).ops} & {*ops}
    ]


@dataclass(frozen=True)
class Lowering:
    """What a runtime cannot read, and the passes that write it in other words.

    Attributes:
        ops: operators that it lacks.
        opset: the newest that it reads; None where that does not matter.
        skip: passes that are not wanted.
    """

    ops: tuple[str, ...] = ()
    opset: int | None = None
    skip: tuple[str, ...] = ()

    @property
    def passes(self) -> list[str]:
        """Those that rewrite, those that clean up after them, and the opset last."""
        # Those that recognize a decomposition would bring the operator back.
        after = default_passes("clean", "fold", "merge", "pack")
        opset = ["lower-opset"] if self.opset is not None else []
        return [name for name in (*passes_that_lower(self.ops), *after, *opset) if name not in self.skip]

    @property
    def options(self) -> dict[str, Any]:
        """For the passes."""
        return {"lower-opset": NewestOpset(self.opset)} if self.opset is not None else {}

    def left(self, result: OptimizeResult) -> list[str]:
        """What is still there after the passes, and why, in one line each."""
        said = [
            f"{entry.op} stays, which the target lacks: {entry.reason}"
            for name, entry in result.skipped
            if name in passes_that_lower(self.ops)
        ]
        found = opset_of(result.model)
        if self.opset is not None and found > self.opset:
            why = next((entry.reason for name, entry in result.skipped if name == "lower-opset"), "")
            said.append(f"the model has opset {found}, and the target reads {self.opset}: {why}")
        return list(dict.fromkeys(said))


def lower_operators(artifact: Artifact, lowering: Lowering, options: SurgeryOptions, out: Path) -> Artifact:
    """Rewrite what a target lacks by the passes that are for it, and clean up after.

    What could not be rewritten stays, and `details.adapted.problems` says why.
    """
    result = optimize(
        onnx.load(artifact.path),
        lowering.passes,
        verify=options.verify,
        seeds=options.seeds,
        options=lowering.options,
    )
    problems = [result.left_alone] if result.left_alone else []
    problems += [f"{step.name} was taken back: {step.reason}" for step in result.reverted]
    problems = list(dict.fromkeys((*problems, *lowering.left(result))))
    details = artifact.details | Details(adapted=AdaptDetails(ops=lowering.ops, problems=tuple(problems)))
    history = (*artifact.history, *result.history())
    return save_model(result.model, artifact.model_copy(update={"history": history, "details": details}), out)


def to_fp16(artifact: Artifact, options: SurgeryOptions, out: Path) -> Artifact:
    """Lower an fp32 artifact to float16 where that is safe; inputs and outputs stay as they are.

    Raises ParityError where the result is further from fp32 than the pass promises, UsageError where the
    model cannot be lowered at all.
    """
    result = optimize(onnx.load(artifact.path), ["to-fp16"], verify=options.verify, seeds=options.seeds)
    if result.left_alone:
        raise UsageError(f"{artifact.model} cannot be lowered to fp16: {result.left_alone}", "build in fp32")
    for step in result.reverted:
        raise ParityError(f"fp16 breaks {artifact.model}: {step.reason}", "build in fp32")
    history = (*artifact.history, *result.history())
    return save_model(
        result.model, artifact.model_copy(update={"precision": "fp16", "history": history}), out
    )


def recorded(artifact: Artifact, before: onnx.ModelProto, result: OptimizeResult) -> Artifact:
    """The artifact with the accepted passes in its history, node counts and problems in its details."""
    surgery = OptimizeDetails(
        nodes_before=len(before.graph.node),
        nodes_after=len(result.model.graph.node),
        verified=result.verified,
        problems=tuple(result.problems()),
    )
    history = (*artifact.history, *result.history())
    return artifact.model_copy(
        update={"history": history, "details": artifact.details | Details(surgery=surgery)}
    )
