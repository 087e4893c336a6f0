"""Every model of the zoo through capture, passes, fp16 and TensorRT-RTX: `python -m benchmarks.zoo`.

Writes docs/zoo.md. Each model runs in a process of its own, smallest first; its row is kept in a file of JSON
lines under a hash of the code and the versions of the libraries, so that a run that was stopped goes on, and
nothing stale is printed. Exit code 1 where a model fails on the way or errs by more than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from textwrap import fill
from typing import Any

from edgedeploy.core.files import sha256_file, sha256_text, write_text
from edgedeploy.core.installed import installed_version

ROOT = Path(__file__).resolve().parents[1]
# What decides a row.
CODE = (
    "models",
    "export",
    "edgedeploy/core",
    "edgedeploy/steps",
    "edgedeploy/backends",
    "edgedeploy/targets",
)
FILES = ("edgedeploy/pipeline.py", "benchmarks/zoo_row.py")
APART = "models/training/"  # how weights come about does not decide a row
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "numpy", "tensorrt-rtx")
FP32_LIMIT, FP16_LIMIT = 1e-4, 1e-2
ABSENT = "-"
MESSAGE = 300  # characters of a refusal in the document
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["*"], metavar="GLOB", help="only these; no document")
    parser.add_argument("--rows", type=Path, default=Path("out/zoo.jsonl"), help="rows measured so far")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "zoo.md", help="the document")
    parser.add_argument("--again", action="store_true", help="measure what failed once more")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a model")
    parser.add_argument("--row", metavar="MODEL", help=argparse.SUPPRESS)  # what the process of a model does
    options = parser.parse_args(arguments)
    if options.row:
        from benchmarks.zoo_row import measure

        print(json.dumps(measure(options.row)))
        return 0
    names = [name for name in by_size() if any(fnmatch(name, glob) for glob in options.models)]
    if not names:
        parser.error(f"no model is called {' or '.join(options.models)}")
    key, known = state(), read_rows(options.rows)
    rows = []
    for number, name in enumerate(names, start=1):
        row = known.get((name, key))
        if row is None or (options.again and problems(row)):
            print(f"{number}/{len(names)} {name}", file=sys.stderr, flush=True)
            row = {**in_process(name, options.timeout), "state": key}
            append(options.rows, row)
        rows.append(row)
        print(f"{name}: {'; '.join(problems(row)) or 'as it should be'}", flush=True)
    if options.models == ["*"]:
        write_text(options.out, document(rows))
        print(f"wrote {options.out}")
    return 1 if any(problems(row) for row in rows) else 0


def by_size() -> list[str]:
    """Names of all models, the one of fewest parameters first."""
    import torch

    from edgedeploy.models import MODELS

    with torch.device("meta"):
        return sorted(
            MODELS.names(), key=lambda name: sum(p.numel() for p in MODELS.get(name).build().parameters())
        )


def state(
    folders: Sequence[str] = CODE, files: Sequence[str] = FILES, libraries: Sequence[str] = LIBRARIES
) -> str:
    """Hash of the code and of the versions that decide a row."""
    paths = [ROOT / name for name in files]
    paths += [
        path for folder in folders for kind in ("py", "toml") for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    named = {path.relative_to(ROOT).as_posix(): path for path in sorted(paths)}
    parts = [f"{name} {sha256_file(path)}" for name, path in named.items() if not name.startswith(APART)]
    return sha256_text(*parts, *(f"{name} {found}" for name, found in versions(libraries).items()))[:16]


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the libraries that take part; "absent" where one is not installed."""
    return {name: installed_version(name) or "absent" for name in libraries}


def read_rows(path: Path) -> dict[tuple[str, str], Row]:
    """Rows by model and state, the last of each; a line cut off by a crash is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [row for row in map(_row, lines) if row]
    return {(row["model"], row["state"]): row for row in rows}


def _row(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) and {"model", "state", "failed"} <= row.keys() else {}


def append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as stream:
        stream.write(("\n" if cut else "") + json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def in_process(name: str, timeout: float, module: str = "benchmarks.zoo") -> Row:
    """The row of a model by a module's --row in a process of its own; a crash or a timeout is a row too."""
    command = [sys.executable, "-m", module, "--row", name]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"model": name, "failed": f"took longer than {timeout:.0f} s"}
    seconds = round(time.perf_counter() - started, 1)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        why = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {"model": name, "failed": f"its process ended with {why}", "seconds": seconds}
    row: Row = json.loads(lines[-1])
    return row


def problems(row: Row) -> list[str]:
    """What is wrong with a row, engines that are refused included."""
    found = [row["failed"]] if row["failed"] else []
    for field, limit in (("error_fp32", FP32_LIMIT), ("error_fp16", FP16_LIMIT)):
        if field in row and not row[field] <= limit:  # NaN is wrong too
            found.append(f"{field} is {row[field]:.1e}, more than {limit:.0e}")
    found += [note for note in row.get("notes", []) if "taken back" in note or "stays" in note]
    engines = row.get("engines", {})
    found += [f"{label}: {engine['failed']}" for label, engine in engines.items() if "failed" in engine]
    return found


def document(rows: Sequence[Row]) -> str:
    """The Markdown of docs/zoo.md."""
    head = (
        "model", "input", "params", "deploy form", "GMACs", "nodes", "norms left",
        "fp32 error", "fp16 error", "SM86", "SM120",
    )  # fmt: skip
    table = [head, ("---",) * len(head), *(_cells(row) for row in sorted(rows, key=lambda r: r["model"]))]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    used = ", ".join(f"{name} {found}" for name, found in versions().items())
    return f"""# The zoo, measured

    python -m benchmarks.zoo

{fill(f"made this page with {used}, Python {platform.python_version()}. {len(rows)} models; of each:", 110)}

* `params` of the network as trained and of its deploy form; `GMACs` as trained, at the input size given
  (`edgedeploy.models.count`). Packed binary weights of BiViT are buffers, which are no parameters; what makes
  the kernels of TVConv runs in training only.
* `nodes` of the ONNX graph as captured and after the passes, each proved in ONNX Runtime as it ran.
* `norms left` after the passes, see below for why.
* `fp32 error`: the folded graph in ONNX Runtime against the training form in PyTorch, largest difference
  relative to the output's largest value, on two inputs; at most {FP32_LIMIT:.0e}.
* `fp16 error`: the same of the graph lowered for TensorRT-RTX; at most {FP16_LIMIT:.0e}. Weights and borders
  are rounded; in between ONNX Runtime adds up in float32 on a CPU.
* `SM86`, `SM120`: kernels of the fp16 engine that TensorRT-RTX builds for these compute capabilities, and its
  size; or `refused`, see below. An engine was built, and for want of a GPU not run.

Weights are random with the statistics of a trained network (`edgedeploy.models.settle`), saved and loaded as
a checkpoint.

{chr(10).join(lines)}

## Norms that stay

{_norms(rows)}

## What fails

{_failures(rows)}
"""


def _cells(row: Row) -> tuple[str, ...]:
    def engine(label: str) -> str:
        found = row.get("engines", {}).get(label)
        if found is None:
            return ABSENT
        return (
            "refused" if "failed" in found else f"{found.get('kernels', '?')}, {found['bytes'] / 1e6:.1f} MB"
        )

    def figure(field: str, form: str) -> str:
        return format(row[field], form) if field in row else ABSENT

    return (
        f"`{row['model']}`",
        "x".join(map(str, row.get("input", []))) or ABSENT,
        figure("params", ","),
        figure("params_deploy", ","),
        f"{row['macs'] / 1e9:.3f}" if "macs" in row else ABSENT,
        " → ".join(map(str, row.get("nodes", []))) or ABSENT,
        str(sum(row["norms"].values())) if "norms" in row else ABSENT,
        figure("error_fp32", ".1e"),
        figure("error_fp16", ".1e"),
        engine("sm86"),
        engine("sm120"),
    )


def _norms(rows: Sequence[Row]) -> str:
    why: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: r["model"]):
        for reason, number in row.get("norms", {}).items():
            why.setdefault(reason, []).append(f"`{row['model']}` {number}")
    return "\n".join(f"* {reason}: {', '.join(models)}." for reason, models in sorted(why.items())) or "None."


def _failures(rows: Sequence[Row]) -> str:
    said = [(row["model"], text) for row in sorted(rows, key=lambda r: r["model"]) for text in problems(row)]
    return "\n".join(f"* `{model}`: {text[:MESSAGE]}" for model, text in said) or "Nothing."


if __name__ == "__main__":
    sys.exit(main())
