"""Registries import only the file asked for, and name the file of a plug-in that breaks the contract."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.core.errors import PluginError, UnknownNameError
from edgedeploy.core.registry import Registry

PACKAGE = "plugins_under_test"
HEAD = f"from {PACKAGE} import R\n"
ENTRY = "@R.register\nclass Plug:\n    name = {!r}\n"
WriteFile = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteFile]:
    """Writes a file of a package that holds the plug-ins `first-one` and `second`, and a private file."""
    folder = tmp_path / PACKAGE
    folder.mkdir()

    def write_file(stem: str, body: str) -> None:
        (folder / f"{stem}.py").write_text(HEAD + body)

    (folder / "__init__.py").write_text(
        f"from edgedeploy.core.registry import Registry\nR = Registry('plug', {PACKAGE!r})\n"
    )
    write_file("first_one", ENTRY.format("first-one"))
    write_file("second", ENTRY.format("second"))
    write_file("_private", "raise ImportError('not a plug-in')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield write_file
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def registry() -> Registry[Any]:
    found: Registry[Any] = importlib.import_module(PACKAGE).R
    return found


@pytest.mark.usefixtures("write")
def test_names_come_from_files_without_importing_them() -> None:
    assert registry().names() == ["first-one", "second"]
    assert f"{PACKAGE}.second" not in sys.modules


@pytest.mark.usefixtures("write")
def test_get_imports_only_the_file_asked_for() -> None:
    assert registry().get("first-one").name == "first-one"
    assert f"{PACKAGE}.first_one" in sys.modules
    assert f"{PACKAGE}.second" not in sys.modules


@pytest.mark.usefixtures("write")
def test_unknown_name_is_an_error_with_a_hint() -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry().get("first_on")
    assert "first-one" in caught.value.hint


def test_a_new_file_needs_no_central_list(write: WriteFile) -> None:
    write("third", ENTRY.format("third"))
    assert "third" in registry().names()
    assert [entry.name for entry in registry().all()] == ["first-one", "second", "third"]


def test_a_file_that_registers_nothing_is_named(write: WriteFile) -> None:
    write("helper", "")
    assert "helper" in registry().names()
    with pytest.raises(PluginError, match=rf"{PACKAGE}/helper\.py registers no plug") as caught:
        registry().get("helper")
    assert "move the file" in caught.value.hint


def test_a_name_one_letter_off_is_named(write: WriteFile) -> None:
    write("third_one", ENTRY.format("thrid-one"))
    with pytest.raises(
        PluginError, match=rf"{PACKAGE}/third_one\.py registers the plug 'thrid-one'"
    ) as caught:
        registry().get("third-one")
    assert caught.value.hint == "call the plug 'third-one', or the file thrid_one.py"


def test_two_plugins_of_one_name_are_named(write: WriteFile) -> None:
    write("third", ENTRY.format("third") * 2)
    with pytest.raises(PluginError, match=rf"'third', which {PACKAGE}\.third has registered"):
        registry().get("third")


def test_a_family_file_holds_several_entries(write: WriteFile) -> None:
    write("third", ENTRY.format("a") + ENTRY.format("b"))
    families = registry()
    families.families = True
    assert families.get("b").name == "b"
    assert families.names() == ["a", "b", "first-one", "second"]
    write("fourth", "")
    with pytest.raises(PluginError, match=r"fourth\.py registers no plug"):
        families.names()


def test_fields_of_the_entry_are_arguments_of_the_decorator() -> None:
    class Entry:
        def __init__(self, act: Callable[[], int], name: str, size: int = 1) -> None:
            self.act, self.name, self.size = act, name, size

    entries: Registry[Entry] = Registry("thing", PACKAGE)

    @entries.decorator(Entry)("here", size=3)
    def here() -> int:
        return 7

    assert here() == 7
    assert (entries.get("here").size, entries.get("here").act()) == (3, 7)


HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "cv2")


@pytest.mark.parametrize(("module", "kind"), [("backend", "BACKENDS"), ("task", "TASKS")])
def test_listing_imports_nothing_heavy(module: str, kind: str) -> None:
    code = (
        f"import sys; from edgedeploy.{module} import {kind}; assert {kind}.names(); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
