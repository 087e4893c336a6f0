"""TOML files inside a package, one thing a file: devices, rule sets."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgedeploy.core.errors import RecipeError, UnknownNameError

if sys.version_info >= (3, 11):
    import tomllib
else:  # JetPack 6 ships Python 3.10
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

M = TypeVar("M", bound=BaseModel)


def data_names(package: str) -> list[str]:
    """Stems of the .toml files of a package, sorted."""
    entries = (entry.name for entry in files(package).iterdir())
    return sorted(name.removesuffix(".toml") for name in entries if name.endswith(".toml"))


def load_data(kind: str, package: str, name: str, model: type[M]) -> M:
    """One .toml file as an object of `model`, whose field `name` is the file's stem.

    Raises UnknownNameError, which calls it a `kind`, with the closest names, and RecipeError for a file that
    is not valid.
    """
    if name not in data_names(package):
        raise UnknownNameError(kind, name, data_names(package))
    text = files(package).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return model(name=name, **tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"{package.rpartition('.')[2]}/{name}.toml is not valid: {error}", "mend it, or install again"
        ) from error
