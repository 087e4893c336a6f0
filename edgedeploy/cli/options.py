"""Options that several verbs share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedeploy.cli.console import parse_bytes
from edgedeploy.core.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", help="File to write; default: in this folder, by name.")
]
Size = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="Height and width in pixels, e.g. 360x640.", show_default=False),
]
Edits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Edit of the recipe, e.g. calibration.method=minmax."),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Calibration data: an image folder, a video, or an .npz.", show_default=False),
]
TargetName = Annotated[str, typer.Option("--target", "-t", help="Device, a file of targets/; see doctor.")]
Weights = Annotated[
    str | None,
    typer.Option(help="Bundled weights by name, a checkpoint file, or 'random'.", show_default=False),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="What an .onnx from elsewhere does: a file of tasks/, e.g. segmentation.",
        show_default=False,
    ),
]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to the runtime.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use at most so many images.", show_default=False)]
Memory = Annotated[
    str | None,
    typer.Option(
        "--mem",
        metavar="SIZE",
        help="Memory for calibration, e.g. 512M or 1G; less takes more passes over the data.",
        show_default=False,
    ),
]
RandomData = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Calibrate on N inputs of noise, to try a deployment without data. Accuracy will be random.",
        show_default=False,
    ),
]

LEAST_MEMORY_MB = 16  # what the recipe takes at least


def memory_mb(text: str | None) -> int | None:
    """MiB of `--mem`; raises UsageError for a bad or too small amount."""
    if text is None:
        return None
    size = parse_bytes(text) >> 20
    if size < LEAST_MEMORY_MB:
        raise UsageError(f"--mem {text} is too little", f"give {LEAST_MEMORY_MB}M or more, better 512M")
    return size


def names(text: str | None) -> list[str] | None:
    """The words of `A,B`; None where the option was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
