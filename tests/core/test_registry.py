"""Registries import only what is asked for, and refuse two plug-ins of one name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedeploy.core.errors import UnknownNameError
from edgedeploy.core.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with two plug-in files, and two that are none."""
    folder = tmp_path / "plugins_under_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from edgedeploy.core.registry import Registry\nR = Registry('plug', 'plugins_under_test')\n"
    )
    for stem in ("first_one", "second"):
        (folder / f"{stem}.py").write_text(
            f"from plugins_under_test import R\nR.register({stem.replace('_', '-')!r})({stem!r})\n"
        )
    mention = "# R.register('base')\nif True:\n    R.register('base')\n"  # not at the start of a line
    (folder / "base.py").write_text(f"raise ImportError('not a plug-in')\n{mention}")
    (folder / "_private.py").write_text("raise ImportError('not a plug-in')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "plugins_under_test"
    for name in [name for name in sys.modules if name.startswith("plugins_under_test")]:
        del sys.modules[name]


def registry_of(package: str) -> Registry[str]:
    return __import__(package).R  # type: ignore[no-any-return]


def test_names_come_from_files_without_importing_them(package: str) -> None:
    assert registry_of(package).names() == ["first-one", "second"]
    assert f"{package}.second" not in sys.modules


def test_get_imports_only_the_file_asked_for(package: str) -> None:
    assert registry_of(package).get("first-one") == "first_one"
    assert f"{package}.first_one" in sys.modules
    assert f"{package}.second" not in sys.modules


def test_unknown_name_is_an_error_with_a_hint(package: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry_of(package).get("first_on")
    assert "first-one" in caught.value.hint


def test_a_new_file_is_seen_without_any_central_list(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "third.py").write_text(f"from {package} import R\nR.register('third')(3)\n")
    assert "third" in registry_of(package).names()
    assert registry_of(package).get("third") == 3


def test_two_entries_of_one_name_are_refused() -> None:
    registry: Registry[str] = Registry("thing", "edgedeploy.core")
    registry.register("a")("one")
    registry.register("a")("one")  # the same object again, as a reload does, is harmless
    with pytest.raises(RuntimeError, match="two things are called 'a'"):
        registry.register("a")("two")
