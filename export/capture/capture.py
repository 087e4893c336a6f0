"""Export a PyTorch network to ONNX and prove in ONNX Runtime that both compute the same.

The dynamo exporter is tried first. Where it fails, or its model differs from the network, the TorchScript
exporter takes over, and the artifact's history names the reason.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgedeploy.core.errors import (
    ArtifactError,
    EdgeDeployError,
    ExportError,
    ParityError,
    UsageError,
    first_line,
)
from edgedeploy.core.parity import CAPTURE, Difference, difference, nudged
from edgedeploy.core.recipe import CaptureOptions
from edgedeploy.core.spec import Artifact, Step, TaskSpec
from edgedeploy.export.capture.adopt import adopt
from edgedeploy.export.capture.exporters import export_dynamo, export_torchscript
from edgedeploy.export.capture.sources import input_shape, is_file_source, make_network
from edgedeploy.export.prove.discontinuity import PERTURBATIONS, Verdict, judge
from edgedeploy.graphs.feeds import feed_sets
from edgedeploy.graphs.metadata import save_model
from edgedeploy.graphs.run import Evaluator, Feeds, NotRunnable, Outputs
from edgedeploy.models.registry import ModelInfo
from edgedeploy.models.reparam import reparameterize

INPUT = "image"
FURTHER = 8  # additional draws for discontinuous networks
Images = Sequence[NDArray[np.float32]]


def capture(
    source: str | Path | nn.Module,
    options: CaptureOptions,
    out: Path,
    *,
    info: ModelInfo | None = None,
    name: str = "",
    images: Images = (),
    builder_options: Mapping[str, Any] | None = None,
) -> Artifact:
    """Write `source` as ONNX to `out` and return the artifact.

    A network of the zoo is exported in its deploy form and compared with the network itself.

    Args:
        source: a network, with `info` if it is of the zoo; a zoo name (fresh weights) or
            `pkg.module:factory`, made with `builder_options`; a `.pt2` of torch.export.save; or a `.onnx`,
            which is checked and adopted.
        options: size, opset, exporter.
        name: of the model, by default that of the source.
        images: network inputs, (1, C, H, W) float32, on which parity is checked besides random inputs.

    The last entry of `history` is "capture" with options {"exporter", "opset", "dynamic", "why"}: `why` is
    the reason why the first exporter was not used, or ""; "jumps", where present, counts the draws at which
    the network is discontinuous (see `export/prove/discontinuity.py`). Raises ExportError
    where no exporter works, ParityError where none agrees with the network, UsageError or ArtifactError for a
    bad source.
    """
    started = time.perf_counter()
    if isinstance(source, nn.Module):
        network: nn.Module | ExportedProgram = source
        name = name or type(source).__name__.lower()
    elif is_file_source(source):
        path = Path(source)
        if path.suffix.lower() == ".onnx":
            return adopt(path, out, name=name or path.stem)
        network, name = _load_pt2(path), name or path.stem
    else:
        network, info, found = make_network(str(source), builder_options or {})
        info = info.variant(**(builder_options or {})) if info is not None else None
        name = name or found
    if isinstance(network, ExportedProgram):
        shape = _pt2_shape(network, options)
        module: nn.Module = network.module()
    else:
        shape = input_shape(network, info, options.height, options.width)
        module = network
        if info is not None:
            network = reparameterize(network)
    capturing = _Capturing(network, module, shape, info, options, images)
    model, exporter, verdict, why = capturing.run()
    jumps = {"jumps": verdict.excused} if verdict.excused else {}
    step = Step(
        name="capture",
        options={
            "exporter": exporter,
            "opset": options.opset,
            "dynamic": options.dynamic,
            "why": why,
            **jumps,
        },
        hits=1,
        milliseconds=(time.perf_counter() - started) * 1e3,
        error=verdict.difference.max_rel,
    )
    task = info.task if info is not None else TaskSpec()
    labels = info.labels if info is not None else ()
    artifact = Artifact(
        path=out, kind="onnx", model=name, inputs=(), outputs=(), task=task, labels=labels, history=(step,)
    )
    return save_model(model, artifact, out)


class _Capturing:
    """One capture: the network to export, and the network to compare the result with."""

    def __init__(
        self,
        network: nn.Module | ExportedProgram,
        module: nn.Module,
        shape: tuple[int, ...],
        info: ModelInfo | None,
        options: CaptureOptions,
        images: Images,
    ) -> None:
        self.network, self.module, self.options, self.images = network, module, options, images
        self.example = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        self.multiple = info.size_multiple if info is not None else 1
        with _evaluating(module):
            count = _count_outputs(module, self.example)
        names = list(info.outputs if info is not None else ("output",))[:count]
        self.outputs = [*names, *(f"output{index}" for index in range(len(names), count))]

    def run(self) -> tuple[onnx.ModelProto, str, Verdict, str]:
        """(model, exporter, parity, reason against the first exporter or "")."""
        wanted = self.options.exporter
        exporters: list[tuple[str, Callable[[], onnx.ModelProto]]] = []
        if wanted in ("auto", "dynamo"):
            exporters.append(("dynamo", self._dynamo))
        if wanted in ("auto", "torchscript"):
            exporters.append(("torchscript", self._torchscript))
        failures: list[EdgeDeployError] = []
        with _evaluating(self.module):
            for exporter, export in exporters:
                try:
                    model = export()
                    verdict = self._check(model, exporter)
                except (ExportError, ParityError) as failure:
                    failures.append(failure)
                    continue
                return model, exporter, verdict, "; ".join(map(str, failures))
        kind = ParityError if any(isinstance(failure, ParityError) for failure in failures) else ExportError
        raise kind(
            "; ".join(map(str, failures)),
            next((f.hint for f in failures if f.hint), "simplify the part of forward() that is named"),
        ) from failures[0]

    def _dynamo(self) -> onnx.ModelProto:
        options = self.options
        return export_dynamo(
            self.network, self.example, INPUT, self.outputs, options.opset, options.dynamic, self.multiple
        )

    def _torchscript(self) -> onnx.ModelProto:
        options = self.options
        network = self.module if isinstance(self.network, ExportedProgram) else self.network
        return export_torchscript(network, self.example, INPUT, self.outputs, options.opset, options.dynamic)

    def _check(self, model: onnx.ModelProto, exporter: str) -> Verdict:
        """Compare model and network over all seeds, sizes and images; raises ParityError, ExportError."""
        try:
            evaluator = Evaluator(model)
            pairs = list(feed_sets(evaluator, self.options.seeds))
            further = islice(feed_sets(evaluator, len(pairs) + FURTHER), len(pairs), None)
            fitting = [image for image in self.images if _fits(image, evaluator)]
            pairs += [({INPUT: image}, evaluator({INPUT: image})) for image in fitting]
            verdict = judge(
                map(self._difference, pairs), map(self._difference, further), self._perturbed, CAPTURE
            )
        except NotRunnable as reason:
            raise ExportError(
                f"{exporter} exporter: ONNX Runtime cannot run the result: {reason}"
            ) from reason
        if not verdict.agrees:
            raise ParityError(
                f"{exporter} exporter: the result is off the network by"
                f" {verdict.difference.max_rel:.1e} of its largest value"
            )
        return verdict

    def _difference(self, pair: tuple[Feeds, Outputs]) -> tuple[NDArray[np.float32], Difference]:
        image = pair[0][INPUT]
        return image, difference(self._answer(self.module, image), pair[1])

    def _perturbed(self, image: NDArray[np.float32], index: int) -> Difference:
        """Difference of the network to itself with perturbed input and weights; see `judge`."""
        # The deploy form: perturbed training weights could binarize to other weights.
        network = self.module if isinstance(self.network, ExportedProgram) else self.network
        other, rng, bits = copy.deepcopy(network), np.random.default_rng(index), PERTURBATIONS[index]
        with torch.no_grad():
            for tensor in (*other.parameters(), *other.buffers()):
                if tensor.dtype == torch.float32:
                    tensor.copy_(torch.from_numpy(nudged(tensor.detach().numpy(), rng, bits)))
        return difference(self._answer(network, image), self._answer(other, nudged(image, rng, bits)))

    def _answer(self, network: nn.Module, image: NDArray[np.float32]) -> Outputs:
        with torch.no_grad():
            expected = _flat(network(torch.tensor(image)))  # copied: images may be read-only
        return {key: value.numpy() for key, value in zip(self.outputs, expected, strict=True)}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within a block, without gradients."""
    # A program of torch.export is fixed in one mode and refuses to change it.
    was_training = module.training and not isinstance(module, torch.fx.GraphModule)
    if was_training:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            module.train()


def _count_outputs(module: nn.Module, example: Tensor) -> int:
    """Number of output tensors; raises ExportError where the network does not take one image."""
    try:
        return len(_flat(module(example)))
    except Exception as error:  # the user's code may raise anything
        raise ExportError(
            f"the network fails on one input of shape {list(example.shape)}: {first_line(error)}",
            "only networks from one image to tensors can be captured: bring another one as .onnx",
        ) from error


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    return [tensor for part in parts for tensor in _flat(part)]


def _fits(image: NDArray[np.float32], evaluator: Evaluator) -> bool:
    wanted = evaluator.inputs[0].shape
    return len(wanted) == image.ndim and all(
        isinstance(want, str) or want == have for want, have in zip(wanted, image.shape, strict=True)
    )


def _load_pt2(path: Path) -> ExportedProgram:
    log = logging.getLogger("torch.export")  # torch prints the traceback of an error that is raised here too
    was_disabled, log.disabled = log.disabled, True
    try:
        return torch.export.load(path)
    except Exception as error:  # zip, json and torch each raise their own
        raise ArtifactError(
            f"{path} is not a torch.export archive: {error}", "save it with torch.export.save"
        ) from error
    finally:
        log.disabled = was_disabled


def _pt2_shape(program: ExportedProgram, options: CaptureOptions) -> tuple[int, ...]:
    if options.height is not None or options.width is not None or options.dynamic:
        raise UsageError(
            "a .pt2 has its size built in", "leave height, width and dynamic out, or export it anew"
        )
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(nodes) != 1:
        raise UsageError(f"the .pt2 has {len(nodes)} inputs", "networks with one input can be captured")
    return tuple(int(dim) for dim in nodes[0].meta["val"].shape)
