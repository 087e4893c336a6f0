"""Packages with the name of a verb: `edgedeploy.export(...)` is a call, `edgedeploy.export.passes` a module.

The import of such a package, or of anything in it, puts the package where the function of the API was found
before. The package therefore passes calls on to the function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function of `edgedeploy.api` that has the package's name."""
        api = import_module("edgedeploy.api")
        return getattr(api, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(package: str) -> None:
    """Let the imported package be called as the verb of its name."""
    sys.modules[package].__class__ = _CallablePackage
