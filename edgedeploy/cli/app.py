"""The `edgedeploy` command: the list of verbs, and the one place that turns errors into exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer

from edgedeploy import __version__
from edgedeploy.cli import (
    bench,
    build,
    demo,
    doctor,
    evaluate,
    export,
    lint,
    models,
    optimize,
    quantize,
    sensitivity,
    soup,
    stdo,
    train,
)
from edgedeploy.cli.console import print_error
from edgedeploy.core.errors import EdgeDeployError
from edgedeploy.core.renamed import RenamedNotice

app = typer.Typer(
    name="edgedeploy",
    help="Take efficient vision models from PyTorch to real time on the device, proved at every step.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("train", help="Train a recipe on your data; goes on where it was killed.")(train.command)
app.command("soup", help="Average the weights of several runs of one recipe.")(soup.command)
app.command("export", help="PyTorch or ONNX in, verified and optimized ONNX out.")(export.command)
app.command("optimize", help="Fold and clean an ONNX file, every pass proved as it runs.")(optimize.command)
app.command("quantize", help="Calibrate on your images and write INT8 as explicit Q/DQ.")(quantize.command)
app.command("lint", help="Judge a quantized ONNX file, anybody's, by a target's rules, and repair it.")(
    lint.command
)
app.command("sensitivity", help="What each layer costs in INT8, and which to keep in float.")(
    sensitivity.command
)
app.command("build", help="Compile for a target: an engine, or the fastest runtime's model.")(build.command)
app.command("bench", help="Time artifacts side by side in one interleaved run.")(bench.command)
app.command("eval", help="Score an artifact by its task's metric on your data.")(evaluate.command)
app.command("demo", help="Run on a camera, a video or images, and show or write the result.")(demo.command)
app.add_typer(stdo.app, name="stdo", help="Send a video small, with the networks that make it large again.")
app.command("models", help="List the zoo.")(models.command)
app.command("doctor", help="Tell what works on this machine, and what to install for the rest.")(
    doctor.command
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgedeploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the verb."""


def main() -> None:
    """Entry point. Exit codes: 0 ok, 2 usage, 3 environment, 4 budget missed or lint, 5 results differ."""
    if sys.stdout is None:  # closed by the shell (`>&-`): Python then has no stream at all
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # it lives as long as the process
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must go somewhere, else the interpreter complains while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code of the verb; 0 where nobody reads on (`edgedeploy models | head`)."""
    warnings.showwarning = _show_warning
    try:
        app()
    except EdgeDeployError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except SystemExit as end:  # typer and rich turn broken pipes into exits themselves
        return 0 if isinstance(end.__context__, BrokenPipeError) else end.code
    return 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Notices for users as one line; every other warning as Python shows it."""
    if isinstance(message, RenamedNotice):
        typer.echo(f"note: {message}", err=True)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)


if __name__ == "__main__":
    main()
