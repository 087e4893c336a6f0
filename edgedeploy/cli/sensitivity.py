"""`edgedeploy sensitivity`: what each layer costs in INT8, as table, CSV, JSON and plot."""

from __future__ import annotations

import csv
import io
import json as json_module
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedeploy.cli.console import Reporter, command_line, parse_size, print_json, print_next, print_table
from edgedeploy.cli.options import Data, Edits, Json, Limit, Size, TargetName, TaskName, Weights

if TYPE_CHECKING:
    from edgedeploy.guard.study import Study

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
    from edgedeploy.cli.deploy import make_job
    from edgedeploy.core.accuracy import parse_accuracy
    from edgedeploy.core.cache import Cache
    from edgedeploy.core.errors import UsageError
    from edgedeploy.guard.study import study
    from edgedeploy.pipeline import run

    if data is None:
        raise UsageError("sensitivity needs data to calibrate and to measure on", "add --data FOLDER")
    for path in out or []:
        _check(path)
    budgets = parse_accuracy(budget or [])
    flags = [f"calibration.limit={limit}"] if limit else []
    flags += [f"task.name={task}"] if task else []
    reporter = Reporter(quiet=json)
    words = [*flags, *(edits or [])]
    job = make_job(
        source, words, target=target, data=data, size=parse_size(size), weights=weights, labeled=labels
    )
    cache = Cache()
    artifact = run(job, reporter, cache, "adapt")
    with (
        tempfile.TemporaryDirectory() as folder,
        reporter.stage("quantize, and measure each layer alone in INT8") as stage,
    ):
        found = study(
            artifact,
            job,
            Path(folder),
            cache.root / "statistics",
            images=images,
            budgets=budgets,
            progress=stage.progress,
        )
    document = _document(found)
    for path in out or []:
        _write(path, document, artifact.model)
    if json:
        print_json(document)
        return
    _print(found)
    build = ["build", source, "--precision", "auto", "--target", target, "--data", data]
    print_next(command_line(*build, *(word for text in budget or [] for word in ("--budget", text))))


def _check(path: Path) -> None:
    """Say at once what would be wrong with a file only after the measurement."""
    from edgedeploy.core.errors import MissingDependencyError, UsageError
    from edgedeploy.core.files import check_writable
    from edgedeploy.core.installed import installed_version

    if path.suffix not in FORMATS:
        raise UsageError(f"{path.name} is no kind of report", f"end it in {', '.join(FORMATS)}")
    if path.suffix in {".png", ".svg"} and not installed_version("matplotlib"):
        raise MissingDependencyError("plots need matplotlib", 'pip install "edgedeploy[train]"')
    check_writable(path)


def _document(found: Study) -> dict[str, Any]:
    """Everything as JSON, layers in graph order."""
    sensitivity = found.sensitivity
    kept = found.kept or {}
    layers = [
        {**asdict(layer), "saved_ms": found.savings.get(layer.name), "keep_float": layer.name in kept}
        for layer in sensitivity.layers
    ]
    whole = {name: value for name, value in asdict(sensitivity).items() if name != "layers"}
    return {
        **whole,
        "savings_are": found.savings_are,
        "layers": layers,
        "kept_float": found.kept,
        "excluded": found.excluded,
    }


def _print(found: Study) -> None:
    sensitivity = found.sensitivity
    columns = ["layer", "operator", "dB at the output", "dB of its own", "dB with all", "agreement"]
    columns += ["metric"] if sensitivity.metric is not None else []
    columns += ["saves ms"] if found.savings else []
    rows = []
    for layer in sensitivity.worst_first[:MOST_ROWS]:
        row = [
            layer.name,
            layer.op,
            *(f"{x:.1f}" for x in (layer.output_db, layer.own_db, layer.together_db)),
        ]
        row.append("" if layer.agreement is None else f"{layer.agreement:.4f}")
        row += ["" if layer.metric is None else f"{layer.metric:.4f}"] if "metric" in columns else []
        saved = found.savings.get(layer.name)
        row += ["" if saved is None else f"{saved:+.4f}"] if found.savings else []
        rows.append(row)
    told = f"{len(sensitivity.layers)} layers, each alone in INT8, on {sensitivity.images} inputs"
    together = f"all of them: {sensitivity.output_db:.1f} dB at the output"
    together += f", agreement {sensitivity.agreement:.4f}" if sensitivity.agreement is not None else ""
    print_table(columns, rows, f"{told}; {together}")
    if found.savings_are:
        print_table(("milliseconds saved are",), [(found.savings_are,)])
    if found.kept is not None:
        print_table(
            ("keep in float", "why"), list(found.kept.items()) or [("nothing", "INT8 keeps the budget")]
        )
        if found.kept:
            names = json_module.dumps(list(found.kept))
            print_next(f"--set 'calibration.keep_float={names}' builds this mix")


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
    """SQNR per layer in graph order: lower bars are dearer."""
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
    axes.set_ylabel("SQNR in dB (less is worse)")
    axes.set_title(f"{model}: each layer alone in INT8; all: {document['output_db']:.1f} dB")
    axes.legend(fontsize=8)
    figure.savefig(path, format=kind, dpi=110)
