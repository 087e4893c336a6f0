"""Surgery on one model in memory: the whole of a file, or one of the two parts it was cut into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from edgedeploy.core.details import Details, SplitDetails
from edgedeploy.core.errors import EdgeDeployError, UsageError
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.export.capture.adopt import precision_of
from edgedeploy.export.census import census
from edgedeploy.export.passes.pad_channels import PadOptions
from edgedeploy.export.runner import OptimizeResult, optimize
from edgedeploy.export.simplify import simplified
from edgedeploy.export.split import split
from edgedeploy.export.surgery import Lowering, recorded
from edgedeploy.graphs.evaluate import Evaluator, NotRunnable
from edgedeploy.graphs.metadata import save_model
from edgedeploy.steps.optimize_file import Optimized

Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A model, what is known of it, where it goes, and inputs on which it is proved.

    Attributes:
        repro: folder for what passes broke; None for `<place>.repro`.
    """

    model: onnx.ModelProto
    artifact: Artifact
    place: Path
    repro: Path | None
    feeds: Sequence[Feeds] = ()


@dataclass(frozen=True)
class Orders:
    """What is to be done with every part, see `optimize_file.optimize`."""

    passes: tuple[str, ...]
    lowering: Lowering
    pad_channels: int | None
    simplify: str | None
    verify: bool
    seeds: int

    def carry_out(self, part: Part, source: Path) -> Done:
        """The passes run on a part, nothing written; raises UsageError where nothing can prove it."""
        start, notes = part.model, []
        if self.simplify is not None:
            start, said = simplified(
                start, self.simplify, verify=self.verify, seeds=self.seeds, feeds=part.feeds
            )
            notes.append(said)
        result = self._run(part, start, self.passes)
        if self.pad_channels is not None and not result.left_alone:
            result = result.then(self._run(part, result.model, ["pad-channels"]))
        if (self.lowering.ops or self.lowering.opset) and not result.left_alone:
            result = result.then(self._run(part, result.model, self.lowering.passes))
            notes += self.lowering.left(result)
        if result.left_alone:
            hint = "go without proof: --no-verify" if self.verify else "nothing can be done with this file"
            raise UsageError(f"{source} was left alone: {result.left_alone}", hint)
        return Done(part, result, tuple(notes))

    def _run(self, part: Part, model: onnx.ModelProto, passes: Sequence[str]) -> OptimizeResult:
        options: dict[str, Any] = dict(self.lowering.options)
        if self.pad_channels is not None:
            options["pad-channels"] = PadOptions(self.pad_channels)
        return optimize(
            model, passes, verify=self.verify, seeds=self.seeds, feeds=part.feeds, options=options
        )


@dataclass(frozen=True)
class Done:
    """A part after surgery, to be written."""

    part: Part
    result: OptimizeResult
    notes: tuple[str, ...]

    def written(self, *, external_data: bool) -> Optimized:
        """Write it; raises OutputError."""
        part, model = self.part, self.result.model
        described = recorded(part.artifact, part.model, self.result)
        if part.artifact.precision == "fp32":
            described = described.model_copy(update={"precision": precision_of(model)})
        if not described.model:
            described = described.model_copy(update={"model": part.artifact.path.stem})
        limit = 0 if external_data else None
        saved = save_model(model, described, part.place, limit=limit)
        return Optimized(saved, self.result, census(part.model), census(model), self._repros(), self.notes)

    def written_with(self, tail: Done, *, external_data: bool) -> Optimized:
        """Write it and what follows it, both or neither; raises OutputError."""
        was_there = tail.part.place.exists()
        second = tail.written(external_data=external_data)
        try:
            first = self.written(external_data=external_data)
        except EdgeDeployError:
            if not was_there:
                tail.part.place.unlink(missing_ok=True)
            raise
        return replace(first, tail=second)

    def _repros(self) -> tuple[Path, ...]:
        place = self.part.place
        folder = self.part.repro if self.part.repro is not None else place.with_name(f"{place.stem}.repro")
        saved = []
        for number, offence in enumerate(self.result.offences, 1):
            if offence.repro is not None:
                saved.append(folder / f"{number:02}-{offence.name}")
                offence.repro.save(saved[-1], offence.name, offence.reason)
        return tuple(saved)


def cut(whole: Part, tensors: Sequence[str]) -> tuple[Part, Part]:
    """(before, behind) the named tensors; what follows is proved on what the first part gives for its inputs.

    The first part keeps the task, for its inputs are those of the whole; the second has none. Raises
    UnknownNameError and UsageError as `split` does.
    """
    head, tail = split(whole.model, tensors)
    place, artifact = whole.place, whole.artifact
    behind = place.with_name(f"{place.stem}.tail{place.suffix}")
    details = artifact.details | Details(
        split=SplitDetails(at=tuple(tensors), head=place.name, tail=behind.name)
    )
    first = artifact.model_copy(update={"details": details})
    second = first.model_copy(update={"task": TaskSpec(), "labels": ()})
    repros = (whole.repro, None if whole.repro is None else whole.repro / "tail")
    return (
        Part(head, first, place, repros[0], whole.feeds),
        Part(tail, second, behind, repros[1], _flowing(head, tail, whole.feeds)),
    )


def _flowing(head: onnx.ModelProto, tail: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Feeds]:
    """What the first part gives to the second; nothing where it does not run, which its own proof says."""
    wanted = [value.name for value in tail.graph.input]
    try:
        runner = Evaluator(head)
        given = [runner(feed) for feed in feeds]
    except NotRunnable:
        return []
    return [{name: outputs[name] for name in wanted} for outputs in given]
