"""Plug-ins by name: a decorator enters a plug-in, the file's name is its name, the first use imports it.

A registry serves one folder. Every file of the folder without a leading underscore is a plug-in:
`fold_batchnorm.py` holds `fold-batchnorm` and nothing else. So a listing of names imports nothing. A folder
may hold families instead, with several plug-ins in a file (models); then a listing imports all files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from edgedeploy.core.errors import PluginError, RecipeError, UnknownNameError

T = TypeVar("T")
D = TypeVar("D")
P = ParamSpec("P")


class Registry(Generic[T]):
    """A mapping from name to entry; every entry has an attribute `name`.

    Args:
        kind: what messages call an entry, e.g. "backend".
        package: dotted name of the folder.
        entry_of: the entry of a class that `register` decorates; by default the class itself.
        families: whether a file holds several entries, whose names the file's name does not tell.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        *,
        entry_of: Callable[[Any], T] = lambda definition: definition,
        families: bool = False,
    ) -> None:
        self.kind, self.package, self.families = kind, package, families
        self._entry_of = entry_of
        self._entries: dict[str, T] = {}
        self._modules: dict[str, str] = {}  # name of an entry -> module that defines it

    def register(self, definition: D) -> D:
        """Class decorator: enter a class under its attribute `name`. Raises PluginError."""
        self._enter(self._entry_of(definition), definition.__module__)
        return definition

    def decorator(self, entry_type: Callable[Concatenate[D, P], T]) -> Callable[P, Callable[[D], D]]:
        """A decorator for definitions that need more fields than a name.

        `entry_type` makes the entry from the definition and the decorator's arguments: its fields are the
        decorator's parameters. The decorator returns the definition unchanged and raises PluginError.
        """

        def with_fields(*args: P.args, **fields: P.kwargs) -> Callable[[D], D]:
            def enter(definition: D) -> D:
                self._enter(entry_type(definition, *args, **fields), definition.__module__)
                return definition

            return enter

        return with_fields

    def get(self, name: str) -> T:
        """The entry called `name`; raises UnknownNameError with the closest names, and PluginError."""
        if name not in self._entries:
            names = self.names()
            if name not in names:
                raise UnknownNameError(self.kind, name, names)
            if not self.families:
                self._load(name.replace("-", "_"))
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted; imports nothing where files hold one entry each. Raises PluginError."""
        if self.families:
            for stem in self._stems():
                self._load(stem)
            return sorted(self._entries)
        return sorted({stem.replace("_", "-") for stem in self._stems()} | set(self._entries))

    def all(self) -> list[T]:
        """All entries by name; imports every file."""
        return [self.get(name) for name in self.names()]

    def _enter(self, entry: T, module: str) -> None:
        name: str = entry.name  # type: ignore[attr-defined]  # of an instance or of a class
        own = module.rpartition(".")[2].replace("_", "-")
        if module.startswith(f"{self.package}.") and not self.families and name != own:
            mend = f"call the {self.kind} '{own}', or the file {name.replace('-', '_')}.py"
            raise PluginError(module, f"registers the {self.kind} '{name}'", mend)
        if name in self._entries:
            other = self._modules.get(name, "another file")
            raise PluginError(
                module, f"registers the {self.kind} '{name}', which {other} has registered", "rename one"
            )
        self._entries[name], self._modules[name] = entry, module

    def _load(self, stem: str) -> None:
        """Import a file; raises PluginError where it registers nothing."""
        module = f"{self.package}.{stem}"
        importlib.import_module(module)
        if module not in self._modules.values():
            mend = f"decorate the {self.kind} of this file, or move the file to another folder"
            raise PluginError(module, f"registers no {self.kind}", mend)

    def _stems(self) -> list[str]:
        """Names of the folder's public files; of its parents only the first is imported."""
        root, *parts = self.package.split(".")
        (start,) = importlib.import_module(root).__path__
        return sorted(path.stem for path in Path(start, *parts).glob("*.py") if not path.stem.startswith("_"))


def with_options(kind: str, plugin: type[T], options: Mapping[str, Any]) -> T:
    """An instance of a plug-in that is a dataclass; its fields are the options that users set.

    Raises RecipeError for an unknown option, and for a value that the dataclass refuses.
    """
    name: str = plugin.name  # type: ignore[attr-defined]
    known = [field.name for field in fields(plugin)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RecipeError(
            f"{kind} {name} has no option {', '.join(unknown)}", f"it has: {', '.join(known) or 'none'}"
        )
    try:
        return plugin(**options)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{kind} {name}: {error}", f"leave its options out; it has: {', '.join(known)}"
        ) from error
