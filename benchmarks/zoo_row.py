"""One model of the zoo through the whole way: what `benchmarks.zoo` runs in a process of its own.

Weights are random with the statistics of a trained network, saved and loaded again as a checkpoint, so that
every BatchNorm does something and float16 has numbers of usual size.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgedeploy.core.cache import Cache
from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.core.job import Job
from edgedeploy.core.parity import worst_difference
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.export.runner import optimize
from edgedeploy.graphs.run import Evaluator
from edgedeploy.models import MODELS, ModelInfo
from edgedeploy.models.count import count
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.settle import settle
from edgedeploy.pipeline import run

TARGETS = {"sm86": "rtx-3060", "sm120": "rtx-5070"}
SEEDS = 2
OF_THE_INPUT = "its statistics are those of the input"
NORMS = {
    "BatchNormalization": "no pass says why",
    "LayerNormalization": OF_THE_INPUT,
    "GroupNormalization": OF_THE_INPUT,
    "InstanceNormalization": OF_THE_INPUT,
    "RMSNormalization": OF_THE_INPUT,
    "LpNormalization": OF_THE_INPUT,
    "MeanVarianceNormalization": OF_THE_INPUT,
}
Row = dict[str, Any]


class _Stage:
    summary = ""

    def progress(self, done: int, total: int | None) -> None: ...


class Log:
    """Tells on stderr which step runs; keeps what the steps have to say."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def stage(self, title: str) -> Iterator[_Stage]:
        started = time.perf_counter()
        yield _Stage()
        seconds = time.perf_counter() - started
        if seconds >= 0.5:  # else it came from the cache
            print(f"    {seconds:6.1f} s  {title}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def measure(name: str) -> Row:
    """The row of a model; a step that fails is named in it, with the reason, and what needs it stays out."""
    info, started = MODELS.get(name), time.perf_counter()
    network, example = trained_alike(info)
    row: Row = {"model": name, "task": info.task.name, "input": list(info.input_shape), "failed": ""}
    counts = count(network, info.input_shape)
    row |= {"params": counts.params, "macs": counts.macs}
    row["params_deploy"] = sum(p.numel() for p in reparameterize(network).parameters())
    log = Log()
    try:
        with TemporaryDirectory() as folder:
            _travel(row, network, example, Path(folder), log)
    except EdgeDeployError as error:
        row["failed"] = str(error)
    row["notes"] = log.notes
    row["seconds"] = round(time.perf_counter() - started, 1)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def trained_alike(info: ModelInfo) -> tuple[nn.Module, Tensor]:
    """A network with the statistics of a trained one, and inputs, (SEEDS, 1, C, H, W)."""
    inputs = torch.rand(SEEDS + 1, *info.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return settle(info.build(), inputs[0]), inputs[1:]


def _travel(row: Row, network: nn.Module, inputs: Tensor, folder: Path, log: Log) -> None:
    weights, name = folder / "weights.pth", row["model"]
    torch.save(network.state_dict(), weights)

    def reach(until: str, target: str, precision: str) -> Artifact:
        recipe = Recipe().edited([f"precision={precision}", "capture.seeds=1", "optimize.seeds=1"])
        job = Job(name, recipe, load_target(target), weights=str(weights))
        return run(job, log, Cache(folder / "cache"), until)

    folded = reach("optimize", "cpu", "fp32")
    model = onnx.load(folded.path)
    row["nodes"] = [folded.details.surgery.nodes_before, folded.details.surgery.nodes_after]
    row["passes"] = {step.name: step.hits for step in folded.history if step.name != "capture"}
    row["exporter"] = folded.history[0].options.get("exporter", "")
    row["norms"] = norms_left(model)
    names = [spec.name for spec in folded.outputs]
    with torch.no_grad():
        truth = [_named(names, network(x)) for x in inputs]
    row["error_fp32"] = error(model, inputs, truth)
    first = next(iter(TARGETS.values()))
    row["error_fp16"] = error(onnx.load(reach("lower", first, "fp16").path), inputs, truth)
    row["engines"] = {label: _engine(reach, target) for label, target in TARGETS.items()}


def _engine(reach: Callable[[str, str, str], Artifact], target: str) -> Row:
    """What is known of a model's fp16 engine for a target, or what refuses it."""
    try:
        built = reach("build", target, "fp16")
    except EdgeDeployError as refusal:
        return {"failed": str(refusal)}
    return {"bytes": built.path.stat().st_size, **built.details.engine.model_dump()}


def _named(names: list[str], outputs: Any) -> dict[str, Any]:
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: y.numpy() for name, y in zip(names, outputs, strict=True)}


def error(model: onnx.ModelProto, inputs: Tensor, truth: list[dict[str, Any]]) -> float:
    """Largest difference to PyTorch relative to the output's largest value, in ONNX Runtime on this CPU."""
    evaluator = Evaluator(model)
    (spec,) = evaluator.inputs
    outputs = (evaluator({spec.name: np.asarray(x)}) for x in inputs)
    return worst_difference(zip(truth, outputs, strict=True)).max_rel


def norms_left(model: onnx.ModelProto) -> dict[str, int]:
    """Normalizations that the passes leave: "operator: why" -> how many."""
    skipped = optimize(model, ["fold-batchnorm"], verify=False).skipped
    found = Counter(f"{entry.op}: {entry.reason}" for _, entry in skipped)
    left = Counter(node.op_type for node in model.graph.node if node.op_type in NORMS)
    for op, number in left.items():
        said = sum(hits for key, hits in found.items() if key.startswith(f"{op}: "))
        if number > said:
            found[f"{op}: {NORMS[op]}"] += number - said
    return dict(found)
