"""What the commands print: results on stdout, everything else (progress, notes, errors) on stderr."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgedeploy.core.errors import EdgeDeployError, UsageError

if TYPE_CHECKING:
    from edgedeploy.core.spec import Artifact


# Control characters but tab and line feed: in a model's names they could steer the terminal.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def escape(text: str) -> str:
    """Text as it stands, for a console that reads markup; control characters become visible."""
    return escape_markup(text.translate(CONTROLS))


def make_console(*, stderr: bool = False, quiet: bool = False, soft_wrap: bool = False) -> Console:
    """A console that leaves words such as :two and 512 alone."""
    return Console(stderr=stderr, quiet=quiet, soft_wrap=soft_wrap, highlight=False, emoji=False)


class Stage:
    """Handle of a running stage: report progress, and leave a summary for its last line."""

    summary: str = ""

    def progress(self, done: int, total: int | None) -> None:
        """So many of so many done; the total may be unknown."""


class Reporter:
    """Progress and notes of a long run, for people; silent parts cost nothing.

    Other layers see plain callables (`progress(done, total)`, `note(text)`): none but this one knows rich.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = make_console(stderr=True, quiet=quiet, soft_wrap=True)

    def note(self, text: str) -> None:
        """One line that a person should see."""
        self.console.print(f"  {escape(text)}")

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """A named step with its duration; give it `progress` calls and it shows a bar with the time left."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )
        begin = time.perf_counter()
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            stage = _BarStage(bar, title)
            yield stage
        summary = f" [dim]{escape(stage.summary)}[/dim]" if stage.summary else ""
        seconds = time.perf_counter() - begin
        self.console.print(f"[green]✓[/green] {escape(title)}{summary} [dim]{seconds:.1f} s[/dim]")


class _BarStage(Stage):
    """A running stage that shows a bar where the total is known."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar, self._task = bar, bar.add_task(escape(title), total=None)
        self._begun = False

    def progress(self, done: int, total: int | None) -> None:
        if not self._begun:
            # Work that goes on where it was stopped begins with much done: that is no measure of its speed.
            self._bar.reset(self._task, completed=max(done - 1, 0), total=total)
            self._begun = True
        self._bar.update(self._task, completed=done, total=total)


def print_error(error: EdgeDeployError) -> None:
    """`error:` and `hint:` lines on stderr, unwrapped so that they can be copied."""
    console = make_console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/bold red] {escape(str(error))}")
    if error.hint:
        console.print(f"[bold cyan]hint:[/bold cyan] {escape(error.hint)}")


def print_json(value: Any) -> None:
    """The one JSON document of a `--json` run, alone on stdout."""
    json.dump(_finite(value), sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def _finite(value: Any) -> Any:
    """Infinity and NaN as null: JSON has no word for them, and other readers refuse Python's."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def print_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    title: str = "",
    dispensable: Iterable[str] = (),
) -> None:
    """A table on stdout; numeric-looking columns are aligned to the right.

    Where the terminal is too narrow, `dispensable` columns are left out in that order, then cells are folded;
    those of the first column, the names, last.
    """
    console = make_console()
    heads = list(columns)
    data = [[str(cell) for cell in row] for row in rows]
    widths = {
        name: max([cell_len(name), *(cell_len(row[index]) for row in data)])
        for index, name in enumerate(heads)
    }
    shown = list(heads)
    for name in dispensable:
        if name in shown and sum(widths[head] + 3 for head in shown) + 1 > console.width:
            shown.remove(name)
    if title:  # a path in it stays in one piece, however narrow the table is
        console.print(f"[italic]{escape(title)}[/italic]", soft_wrap=True)
    table = Table(header_style="bold")
    for name in shown:
        cells = [row[heads.index(name)] for row in data]
        numeric = bool(cells) and all(cell[:1].isdigit() or cell[:1] in "-+<" for cell in cells)
        # A name is not folded for the sake of figures, unless it would leave them no room.
        whole = name == heads[0] and widths[name] <= console.width // 2
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in data:
        table.add_row(*(escape(row[heads.index(name)]) for name in shown))
    console.print(table)


def file_title(artifact: Artifact) -> str:
    """Path, precision and size: the title of a table about the file."""
    size = artifact.path.stat().st_size / 1e3
    return f"{artifact.path} ({artifact.precision}, {size:.0f} kB)"


def print_tables(tables: Iterable[tuple[str, Iterable[str], Iterable[Iterable[Any]]]]) -> None:
    """Tables one after the other, each of title, columns and rows."""
    for title, columns, rows in tables:
        print_table(columns, rows, title)


def print_next(*commands: str) -> None:
    """The commands to type next, on stderr so that pipes stay clean."""
    console = make_console(stderr=True, soft_wrap=True)
    for command in commands:
        console.print(f"[dim]next:[/dim] {escape(command)}")


def command_line(*words: object) -> str:
    """An `edgedeploy` command that can be pasted into a shell, whatever its paths are called."""
    return shlex.join(["edgedeploy", *map(str, words)])


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`HEIGHTxWIDTH` in pixels; raises UsageError for anything else."""
    if text is None:
        return None
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"'{text}' is not a size", "write it as HEIGHTxWIDTH, e.g. --size 360x640")
    return int(height), int(width)


def parse_bytes(text: str) -> int:
    """Bytes of `512M`, `1.5G` or `1GiB`, by powers of 1024; raises UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])i?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"'{text}' is not an amount of memory", "write it with its unit, e.g. 512M or 1.5G")
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1))
