"""The errors that users meet: each says what is wrong and what to type next.

`cli/app.py` is the only place that catches them; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EdgeDeployError(Exception):
    """Base of the family; `hint` is one line on how to go on, `exit_code` is what the CLI ends with."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def first_line(error: BaseException) -> str:
    """The first line of an error of somebody else's, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class UsageError(EdgeDeployError):
    """The command or its input is at fault: a missing file, a wrong size, an option that does not fit."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, an `a.b=value` edit or an option has an unknown field or a value out of range."""


def closest(name: str, known: Iterable[str]) -> str:
    """A hint that names up to three of the known names, the most similar ones, or else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}"


class UnknownNameError(UsageError):
    """A name that no registry entry has; the hint names the closest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} '{name}'", closest(name, known))


class PluginError(EdgeDeployError):
    """A plug-in's file breaks the contract of its folder; the message names the file, the hint the mend."""

    def __init__(self, module: str, fault: str, mend: str) -> None:
        super().__init__(f"{module.replace('.', '/')}.py {fault}", mend)


class ArtifactError(UsageError):
    """A file is not the artifact that it should be: truncated, of another kind, or damaged."""


class CalibrationError(UsageError):
    """Calibration data is missing, unusable, or the statistics that it gave are."""


class OutputError(EdgeDeployError):
    """A result cannot be written."""


class MissingDependencyError(EdgeDeployError):
    """An optional package is absent; the hint is the command that installs it."""


class DeviceError(EdgeDeployError):
    """A camera, a GPU or another device is not here or does not answer."""


class SourceLostError(DeviceError):
    """A camera or an address stopped answering after it had given frames; those are kept."""


class ExportError(EdgeDeployError):
    """A PyTorch network could not be captured as ONNX."""


class PassError(EdgeDeployError):
    """A graph pass is itself at fault: it raised, or left a graph that the ONNX checker refuses."""


class BuildError(EdgeDeployError):
    """A backend refused to build; the message carries the SDK's own words."""


class UnsupportedOpError(BuildError):
    """A backend does not have an operator."""

    def __init__(self, op: str, node: str, backend: str, hint: str = "") -> None:
        super().__init__(f"{backend} does not support operator {op} (node '{node}')", hint)
        self.op, self.node = op, node


class EngineMismatchError(EdgeDeployError):
    """An engine was built for another device, runtime version or flag set; the hint rebuilds it."""


class BudgetError(EdgeDeployError):
    """A measured figure missed the budget that the user set."""

    exit_code = 4


class LintError(EdgeDeployError):
    """A model breaks rules of the target that it is meant for."""

    exit_code = 4


class ParityError(EdgeDeployError):
    """Two forms of a model that should agree do not."""

    exit_code = 5
