"""TOML files of a package, one entry per file: targets, rule sets."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Any, TypeVar

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


def load_data(kind: str, package: str, name: str, model: type[M], inherit: str = "") -> M:
    """One .toml file as an object of `model`, whose field `name` is the file's stem.

    `inherit` is the name of the field that names another file of the package; that file gives the fields that
    this one lacks. Raises UnknownNameError for a `kind` without a file, and RecipeError for an invalid file.
    """
    fields, seen, current = dict[str, Any](), [name], name
    while current:
        if current not in data_names(package):
            raise UnknownNameError(kind, current, data_names(package))
        own = _read(package, current)
        fields = {**own, **fields}
        current = str(own.get(inherit, "")) if inherit else ""
        if current in seen:
            raise _invalid(package, name, f"{' > '.join([*seen, current])} is circular")
        seen.append(current)
    try:
        return model(**{**fields, "name": name})
    except ValidationError as error:
        raise _invalid(package, name, error) from error


def _read(package: str, name: str) -> dict[str, Any]:
    text = files(package).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise _invalid(package, name, error) from error


def _invalid(package: str, name: str, why: object) -> RecipeError:
    where = f"{package.rpartition('.')[2]}/{name}.toml"
    return RecipeError(f"{where} is not valid: {why}", "correct the file, or install the package again")
