"""What `build` prints and writes: the contest that it made, the engine, and what to do next."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedeploy.cli.console import command_line, file_title, print_next, print_tables
from edgedeploy.core.accuracy import change, unit
from edgedeploy.core.details import CandidateDetails
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import check_writable, write_text
from edgedeploy.core.spec import Artifact, sidecar_path
from edgedeploy.guard.candidates import Status

REPORTS = (".md", ".json", ".html")
MOST_LAYERS = 8
COLUMNS = ("candidate", "runtime", "ms", "accuracy", "agreement", "95 % sure", "worst", "verdict")
STYLE = (
    "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left}"
)
Table = tuple[str, Sequence[str], list[list[str]]]


def check_report(path: Path | None, precision: str | None) -> None:
    """Refuse a wrong report before the build; raises UsageError, OutputError."""
    if path is None:
        return
    if precision != "auto":
        raise UsageError("--report writes what --precision auto found", "add --precision auto")
    if path.suffix not in REPORTS:
        raise UsageError(f"{path.name} is no kind of report", f"end it in {', '.join(REPORTS)}")
    check_writable(path)


def print_build(artifact: Artifact) -> None:
    """Print the candidates, what is known of an engine, and the next command."""
    command = next_step(artifact)
    tables = _precision_tables(artifact)
    considered = artifact.details.considered
    if considered:
        rows = [
            [c.backend, _figure(c.milliseconds, ""), _figure(c.sqnr_db, ".1f"), c.verdict] for c in considered
        ]
        tables.append((file_title(artifact), ("backend", "ms", "SQNR dB", "verdict"), rows))
    engine = artifact.details.engine  # known of TensorRT engines alone
    if engine.kernels:
        rows = [[name, str(value)] for name, value in engine.model_dump().items()]
        tables.append(("", ("of the engine", ""), rows))
    print_tables(tables)
    print_next(command)


def next_step(artifact: Artifact) -> str:
    """What to do with what was built: bench it, on the device if it could not be timed here."""
    shipped = (entry for entry in artifact.details.considered if entry.status == Status.SHIPS)
    if not any(entry.milliseconds is None for entry in shipped):
        return command_line("bench", artifact.path)
    files = shlex.join([str(artifact.path)]), shlex.join([str(sidecar_path(artifact.path))])
    bench = command_line("bench", artifact.path.name)
    return f"copy {' and '.join(files)} to the device, then: {bench}"


def write_report(artifact: Artifact, path: Path) -> None:
    """Write the report in the format of the suffix; JSON has all figures. Raises OutputError."""
    report = artifact.details.guard
    if path.suffix == ".json":
        document = {"model": artifact.model, "target": artifact.target, **report.model_dump(mode="json")}
        text = json.dumps(document, indent=2) + "\n"
    else:
        write = _markdown if path.suffix == ".md" else _html
        title = f"{artifact.model} on {artifact.target}"
        text = write(title, report.sentence, _precision_tables(artifact))
    write_text(path, text)


def _precision_tables(artifact: Artifact) -> list[Table]:
    report = artifact.details.guard
    if not report.candidates:
        return []
    labeled = "against their labels" if report.labels else "against the fp32 model"
    title = (
        f"budget {', '.join(report.budget)}; calibrated on {report.calibrated_on} inputs, "
        f"scored on {report.scored_on} others {labeled}"
    )
    tables: list[Table] = [(title, COLUMNS, [_row(c, report.reference) for c in report.candidates])]
    if report.layers:
        rows = [
            [e.layer, e.op, f"{e.output_db:.1f}", f"{e.own_db:.1f}", _figure(e.agreement)]
            for e in report.layers[:MOST_LAYERS]
        ]
        columns = ("layer", "operator", "dB at the output", "dB of its own", "agreement")
        tables.append(("what INT8 costs, each layer alone in it", columns, rows))
    kept = next((c.kept_float for c in report.candidates if c.status == Status.SHIPS), {})
    if kept:
        tables.append(("kept in float", ("layer", "why"), [[n, why] for n, why in kept.items()]))
    return tables


def _row(candidate: CandidateDetails, reference: Mapping[str, float]) -> list[str]:
    scores, runtime = candidate.scores, candidate.backend
    metric = next((name for name in reference if name in scores), None)
    accuracy = ""
    if metric is not None:
        lost = change(metric, scores[metric], reference[metric])
        accuracy = f"{metric} {scores[metric]:.4g} ({lost:+.2f} {unit(metric)})"
    if scores and candidate.scored_in != runtime:
        accuracy += f" in {candidate.scored_in}"
    clock = candidate.milliseconds
    shown = "" if clock is None else f"{clock:.2f}" if not candidate.estimated else f"{clock:.3f} at least"
    return [
        candidate.name, runtime, shown, accuracy.strip(), _figure(scores.get("agreement")),
        _figure(scores.get("agreement_low")), _figure(scores.get("worst")), candidate.verdict,
    ]  # fmt: skip


def _figure(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else f"{value:{form}}"


def _markdown(title: str, sentence: str, tables: list[Table]) -> str:
    lines = [f"# {title}", "", sentence, ""]
    for heading, columns, rows in tables:
        lines += [f"{heading}:", "", _line(columns), "|" + "---|" * len(columns)]
        lines += [_line(row) for row in rows] + [""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html(title: str, sentence: str, tables: list[Table]) -> str:
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p>",
    ]
    for heading, columns, rows in tables:
        head = "".join(f"<th>{html.escape(cell)}" for cell in columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
        parts.append(f"<p>{html.escape(heading)}</p><table><tr>{head}{body}</table>")
    return "\n".join(parts) + "\n"
