"""Plug-ins by name: explicit decorators, found by file name, imported on first use.

A registry looks after one package. Where each file holds one plug-in, its name is the file's
(`fold_batchnorm.py` is `fold-batchnorm`) and only that file is imported; where a file holds several (models),
all are. A file whose text enters nothing under its own name is a helper.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from edgedeploy.core.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A lazy mapping from name to plug-in.

    Args:
        kind: what an entry is called in errors, e.g. "backend".
        package: dotted name of the package whose files hold the entries.
        one_per_file: whether a file's name tells the entry's name; False imports every file to answer.
        skip: file names (stems) that are not imported when all are.
    """

    def __init__(
        self, kind: str, package: str, *, one_per_file: bool = True, skip: frozenset[str] = frozenset()
    ) -> None:
        self.kind, self.package, self.one_per_file, self.skip = kind, package, one_per_file, skip
        self._entries: dict[str, T] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters an object under `name`; a second entry of that name is a bug."""

        def enter(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and known is not entry:
                raise RuntimeError(f"two {self.kind}s are called '{name}': {known!r} and {entry!r}")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry called `name`; raises UnknownNameError with the closest names."""
        if name not in self._entries:
            if not self.one_per_file:
                self._import_all()
            elif name in self.names():
                importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self.names())
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted; imports nothing where files hold one entry each."""
        if self.one_per_file:
            return sorted({stem.replace("_", "-") for stem in self._entry_files()} | set(self._entries))
        self._import_all()
        return sorted(self._entries)

    def _entry_files(self) -> Iterator[str]:
        """Files that enter something under their name: `@decorator("name"` or `REGISTRY.register("name"`."""
        (folder,) = importlib.import_module(self.package).__path__
        for stem in self._stems():
            name = re.escape(stem.replace("_", "-"))
            entry = rf"""^(?:@[\w.]+|[\w.]+\.register)\(\s*["']{name}["']"""
            if re.search(entry, (Path(folder) / f"{stem}.py").read_text("utf-8"), re.MULTILINE):
                yield stem

    def _stems(self) -> Iterator[str]:
        paths = importlib.import_module(self.package).__path__
        for module in pkgutil.iter_modules(paths):
            if not module.ispkg and not module.name.startswith("_") and module.name not in self.skip:
                yield module.name

    def _import_all(self) -> None:
        if not self._scanned:
            self._scanned = True
            for stem in self._stems():
                importlib.import_module(f"{self.package}.{stem}")
