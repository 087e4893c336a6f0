"""What the guard found, as tables on the terminal and as Markdown, HTML or JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgedeploy.cli.console import print_table
from edgedeploy.core.details import CandidateDetails
from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import check_writable, write_text
from edgedeploy.core.spec import Artifact

REPORTS = (".md", ".json", ".html")
MOST_LAYERS = 8
COLUMNS = ("candidate", "runtime", "ms", "accuracy", "agreement", "95 % sure", "worst", "verdict")
STYLE = (
    "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left}"
)
Table = tuple[str, Sequence[str], list[list[str]]]


def check_report(path: Path | None, precision: str | None) -> None:
    """Say at once what would be wrong with the report only after the build."""
    if path is None:
        return
    if precision != "auto":
        raise UsageError("--report tells what --precision auto found", "add --precision auto")
    if path.suffix not in REPORTS:
        raise UsageError(f"{path.name} is no kind of report", f"end it in {', '.join(REPORTS)}")
    check_writable(path)


def print_guard(artifact: Artifact) -> None:
    """The tables; nothing where precision was not chosen by the guard."""
    for title, columns, rows in _tables(artifact):
        print_table(columns, rows, title)


def write_report(artifact: Artifact, path: Path) -> None:
    """The report by the suffix of `path`; JSON has everything. Raises OutputError."""
    found = artifact.details.guard
    if path.suffix == ".json":
        text = (
            json.dumps(
                {"model": artifact.model, "target": artifact.target, **found.model_dump(mode="json")},
                indent=2,
            )
            + "\n"
        )
    else:
        write = _markdown if path.suffix == ".md" else _html
        text = write(f"{artifact.model} on {artifact.target}", found.sentence, _tables(artifact))
    write_text(path, text)


def _tables(artifact: Artifact) -> list[Table]:
    found = artifact.details.guard
    if not found.candidates:
        return []
    labeled = "against their labels" if found.labels else "against the fp32 model"
    title = (
        f"budget {', '.join(found.budget)}; calibrated on {found.calibrated_on} inputs, "
        f"scored on {found.scored_on} others {labeled}"
    )
    tables: list[Table] = [(title, COLUMNS, [_row(c, found.reference) for c in found.candidates])]
    if found.layers:
        rows = [
            [e.layer, e.op, f"{e.output_db:.1f}", f"{e.own_db:.1f}", _figure(e.agreement)]
            for e in found.layers[:MOST_LAYERS]
        ]
        columns = ("layer", "operator", "dB at the output", "dB of its own", "agreement")
        tables.append(("what INT8 costs, each layer alone in it", columns, rows))
    kept = next((c.kept_float for c in found.candidates if c.verdict == "ships"), {})
    if kept:
        tables.append(("kept in float", ("layer", "why"), [[n, why] for n, why in kept.items()]))
    return tables


def _row(candidate: CandidateDetails, reference: Mapping[str, float]) -> list[str]:
    from edgedeploy.core.accuracy import change, unit

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


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


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
