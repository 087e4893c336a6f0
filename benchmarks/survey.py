"""A measurement of every model of the zoo, resumable: what `benchmarks.zoo` and `benchmarks.int8_zoo` share.

Each model runs in a process of its own, smallest first; its row is kept in a file of JSON lines under a hash
of the code and the versions of the libraries, so that a run that was stopped goes on, and nothing stale is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from edgedeploy.core.files import sha256_file, sha256_text, write_text
from edgedeploy.core.installed import installed_version

ROOT = Path(__file__).resolve().parents[1]
APART = "models/training/"  # how weights come about does not decide a row
ABSENT = "-"
Row = dict[str, Any]


@dataclass(frozen=True)
class Survey:
    """What is measured of each model, and what decides it.

    Attributes:
        name: of the module in benchmarks/, of the file of rows in out/ and of the page in docs/.
        folders, files, libraries: code and packages of which a row is stale once they change.
        measure: the row of a model, in this process.
        problems: what is wrong with a row.
        document: the page in Markdown, from the rows there are and the number of models.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    libraries: tuple[str, ...]
    measure: Callable[[str], Row]
    problems: Callable[[Row], list[str]]
    document: Callable[[Sequence[Row], int], str]

    def main(self, about: str | None, arguments: Sequence[str] | None) -> int:
        """The command line; exit code 1 where something is wrong with a row."""
        parser = argparse.ArgumentParser(
            description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        rows, page = Path(f"out/{self.name}.jsonl"), ROOT / "docs" / f"{self.name}.md"
        parser.add_argument(
            "--models", nargs="+", default=["*"], metavar="GLOB", help="only these; no document"
        )
        parser.add_argument("--rows", type=Path, default=rows, help="rows measured so far")
        parser.add_argument("--out", type=Path, default=page, help="the document")
        parser.add_argument("--again", action="store_true", help="measure what failed once more")
        parser.add_argument(
            "--known", action="store_true", help="measure nothing: document the rows there are"
        )
        parser.add_argument("--timeout", type=float, default=1800, help="seconds a model")
        parser.add_argument("--row", metavar="MODEL", help=argparse.SUPPRESS)  # what a model's process does
        options = parser.parse_args(arguments)
        if options.row:
            print(json.dumps(self.measure(options.row)))
            return 0
        names = [name for name in by_size() if any(fnmatch(name, glob) for glob in options.models)]
        if not names:
            parser.error(f"no model is called {' or '.join(options.models)}")
        found = self._gather(names, options)
        if options.models == ["*"]:
            write_text(options.out, self.document(found, len(names)))
            print(f"wrote {options.out}")
        return 1 if any(self.problems(row) for row in found) else 0

    def _gather(self, names: Sequence[str], options: argparse.Namespace) -> list[Row]:
        key, known, rows = self.state(), read_rows(options.rows), list[Row]()
        for number, name in enumerate(names, start=1):
            row = known.get((name, key))
            if row is None and options.known:
                continue
            if row is None or (options.again and self.problems(row)):
                print(f"{number}/{len(names)} {name}", file=sys.stderr, flush=True)
                row = {**in_process(name, options.timeout, f"benchmarks.{self.name}"), "state": key}
                append(options.rows, row)
            rows.append(row)
            print(f"{name}: {'; '.join(self.problems(row)) or 'as it should be'}", flush=True)
        return rows

    def state(self) -> str:
        """Hash of the code and of the versions that decide a row."""
        paths = [ROOT / name for name in self.files]
        paths += [
            path
            for folder in self.folders
            for kind in ("py", "toml")
            for path in (ROOT / folder).rglob(f"*.{kind}")
        ]
        named = {path.relative_to(ROOT).as_posix(): path for path in sorted(paths)}
        parts = [f"{name} {sha256_file(path)}" for name, path in named.items() if not name.startswith(APART)]
        return sha256_text(*parts, *(f"{name} {found}" for name, found in self.versions().items()))[:16]

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that take part; "absent" where one is not installed."""
        return {name: installed_version(name) or "absent" for name in self.libraries}


@cache
def by_size() -> list[str]:
    """Names of all models, the one of fewest parameters first."""
    import torch

    from edgedeploy.models import MODELS

    with torch.device("meta"):
        return sorted(
            MODELS.names(), key=lambda name: sum(p.numel() for p in MODELS.get(name).build().parameters())
        )


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
    """Add a row and have it on disk, whole, behind whatever a crash has left of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as stream:
        stream.write(("\n" if cut else "") + json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def in_process(name: str, timeout: float, module: str) -> Row:
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
