"""`edgedeploy sensitivity`: the noise and time of each layer in INT8, as table, CSV, JSON and plot."""

from __future__ import annotations

import csv
import io
import json as json_module
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next, print_table
from edgedeploy.cli.options import Data, Edits, Json, Limit, Size, TargetName, TaskName, Weights

if TYPE_CHECKING:
    from edgedeploy.calibration.mix.sensitivity import LayerSensitivity
    from edgedeploy.guard.layers import LayerStudy

FORMATS = (".csv", ".json", ".png", ".svg")
MOST_ROWS = 20


def command(
    source: Annotated[str, typer.Argument(help="An .onnx, or a zoo model.", show_default=False)],
    data: Data = None,
    target: TargetName = "cpu",
    labels: Annotated[
        Path | None,
        typer.Option(help="Labeled images: the task's metric per layer, too.", show_default=False),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Propose layers to keep in float for it, e.g. 'agreement>=0.985'.", show_default=False
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Inputs to measure on: one run a layer each.")] = 4,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--out", help="Write to .csv, .json, .png or .svg; may be repeated.", show_default=False
        ),
    ] = None,
    task: TaskName = None,
    limit: Limit = None,
    size: Size = None,
    weights: Weights = None,
    edits: Edits = None,
    json: Json = False,
) -> None:
    from edgedeploy.core.accuracy import parse_accuracy
    from edgedeploy.core.cache import Cache
    from edgedeploy.core.errors import UsageError
    from edgedeploy.core.recipe import parsed
    from edgedeploy.guard.layers import study_layers
    from edgedeploy.pipeline import run
    from edgedeploy.verbs.deploy import make_job

    if data is None:
        raise UsageError("sensitivity needs data to calibrate and to measure on", "add --data FOLDER")
    for path in out or []:
        _check(path)
    budgets = parse_accuracy(budget or [])
    flags = [f"calibration.limit={limit}"] if limit else []
    flags += [f"task.name={task}"] if task else []
    reporter = Reporter(quiet=json)
    words = parsed([*flags, *(edits or [])])
    job = make_job(
        source, words, target=target, data=data, size=parse_size(size), weights=weights, labeled=labels
    )
    cache = Cache()
    artifact = run(job, reporter, cache, "replace")
    with (
        tempfile.TemporaryDirectory() as folder,
        reporter.stage("quantize, and measure each layer alone in INT8") as stage,
    ):
        study = study_layers(
            artifact,
            job,
            Path(folder),
            cache.root / "statistics",
            images=images,
            budgets=budgets,
            progress=stage.progress,
        )
    document = _document(study)
    for path in out or []:
        _write(path, document, artifact.model)
    if json:
        print_json(document)
        return
    _print(study)
    options = {"--task": task, "--limit": limit, "--size": size, "--weights": weights}
    given = [(name, value) for name, value in options.items() if value is not None]
    given += [("--set", edit) for edit in edits or []]
    build = ("build", source, "--target", target, "--data", data, *chain(*given), "--precision")
    if study.kept and len(study.kept) < len(study.sensitivity.layers):
        kept = f"calibration.keep_float={json_module.dumps(list(study.kept))}"
        print_next(command_line(*build, "int8", "--set", kept))
    print_next(command_line(*build, "auto", *chain(*(("--budget", text) for text in budget or []))))


def _check(path: Path) -> None:
    """Refuse a wrong file name before the measurement; raises UsageError, MissingDependencyError."""
    from edgedeploy.core.errors import MissingDependencyError, UsageError
    from edgedeploy.core.files import check_writable
    from edgedeploy.core.installed import installed_version

    if path.suffix not in FORMATS:
        raise UsageError(f"{path.name} is no kind of report", f"end it in {', '.join(FORMATS)}")
    if path.suffix in {".png", ".svg"} and not installed_version("matplotlib"):
        raise MissingDependencyError("plots need matplotlib", 'pip install "edgedeploy[train]"')
    check_writable(path)


def _document(study: LayerStudy) -> dict[str, Any]:
    """The study as JSON, layers in graph order."""
    sensitivity = study.sensitivity
    kept = study.kept or {}
    layers = [
        {**asdict(layer), "saved_ms": study.savings.get(layer.name), "keep_float": layer.name in kept}
        for layer in sensitivity.layers
    ]
    totals = {name: value for name, value in asdict(sensitivity).items() if name != "layers"}
    return {
        **totals,
        "savings_are": study.savings_source,
        "layers": layers,
        "kept_float": study.kept,
        "excluded": study.excluded,
    }


def _print(study: LayerStudy) -> None:
    sensitivity = study.sensitivity
    columns: dict[str, Callable[[LayerSensitivity], str]] = {
        "layer": lambda layer: layer.name,
        "operator": lambda layer: layer.op,
        "dB at the output": lambda layer: _figure(layer.output_db, ".1f"),
        "dB of its own": lambda layer: _figure(layer.own_db, ".1f"),
        "dB with all": lambda layer: _figure(layer.together_db, ".1f"),
        "agreement": lambda layer: _figure(layer.agreement, ".4f"),
    }
    if sensitivity.metric is not None:
        columns["metric"] = lambda layer: _figure(layer.metric, ".4f")
    if study.savings:
        columns["saves ms"] = lambda layer: _figure(study.savings.get(layer.name), "+.4f")
    rows = [[show(layer) for show in columns.values()] for layer in sensitivity.worst_first[:MOST_ROWS]]
    title = f"{len(sensitivity.layers)} layers, each alone in INT8, on {sensitivity.images} inputs"
    together = f"all of them: {sensitivity.output_db:.1f} dB at the output"
    together += f", agreement {sensitivity.agreement:.4f}" if sensitivity.agreement is not None else ""
    print_table(columns, rows, f"{title}; {together}")
    if study.savings_source:
        print_table(("milliseconds saved are",), [(study.savings_source,)])
    if study.kept is not None:
        print_table(
            ("keep in float", "why"), list(study.kept.items()) or [("nothing", "INT8 keeps the budget")]
        )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _write(path: Path, document: dict[str, Any], model: str) -> None:
    from edgedeploy.core.files import replacing, write_text

    if path.suffix == ".json":
        write_text(path, json_module.dumps(document, indent=2) + "\n")
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(document["layers"][0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(document["layers"])
        write_text(path, text.getvalue())
    else:
        with replacing(path) as temporary:
            _plot(temporary, path.suffix.lstrip("."), document, model)


def _plot(path: Path, kind: str, document: dict[str, Any], model: str) -> None:
    """SQNR per layer in graph order: a lower bar is a more sensitive layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = document["layers"]
    figure = Figure(figsize=(max(8.0, 0.22 * len(layers)), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(layers))
    colors = ["#c0392b" if layer["keep_float"] else "#2e86c1" for layer in layers]
    axes.bar(places, [layer["output_db"] for layer in layers], color=colors, label="model's output, alone")
    for name, mark, label in (("own_db", "o", "its own output, alone"), ("together_db", "x", "with all")):
        axes.plot(places, [layer[name] for layer in layers], mark, color="#555", markersize=4, label=label)
    axes.set_xticks(list(places), [layer["name"] for layer in layers], rotation=90, fontsize=7)
    axes.set_ylabel("SQNR in dB (lower is worse)")
    axes.set_title(f"{model}: each layer alone in INT8; all: {document['output_db']:.1f} dB")
    axes.legend(fontsize=8)
    figure.savefig(path, format=kind, dpi=110)
