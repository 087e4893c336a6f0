"""tests/ mirrors the code, and what tests share is in tests/support or in a conftest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("test_*.py"))
OTHER_TEST = re.compile(r"^\s*(?:from|import) tests(?:\.\w+)*\.test_\w+", re.MULTILINE)


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {TESTS}), ids=lambda p: p.name)
def test_every_folder_mirrors_a_package(folder: Path) -> None:
    path = ROOT / "edgedeploy" / folder.relative_to(TESTS)
    assert (path / "__init__.py").exists(), f"{folder} tests no package of that name"


def test_no_test_module_imports_another() -> None:
    """Also not in the text of a program that a test runs."""
    found = {
        str(path.relative_to(ROOT)): match.group().strip()
        for path in [*MODULES, *TESTS.rglob("conftest.py"), *(TESTS / "support").glob("*.py")]
        for match in OTHER_TEST.finditer(path.read_text())
    }
    assert not found, "move what both need to tests/support"


def test_an_import_of_a_test_module_is_seen() -> None:
    assert OTHER_TEST.search("import os\nfrom tests.calibration.test_collect import network\n")
    assert not OTHER_TEST.search("from tests.support.calibration_nets import network\n")
