"""Commands, what they print, and what they import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


def assert_refused(outcome: Outcome, code: int, says: str, hint: str = "") -> None:
    lines = [line for line in outcome.err.splitlines() if line.startswith(("error:", "hint:"))]
    assert outcome.code == code, outcome.err
    assert len(lines) == 2, outcome.err
    assert says in lines[0]
    assert hint in lines[1]
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def modules_after(code: str, cwd: Path) -> set[str]:
    """Top-level packages in sys.modules of a fresh interpreter after `code`."""
    tell = "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    script = f"import sys\n{code}\n{tell}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def command(*words: object) -> str:
    """Code that runs the CLI and goes on where it exits."""
    return (
        f"sys.argv = {['edgedeploy', *map(str, words)]!r}\n"
        "from edgedeploy.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
