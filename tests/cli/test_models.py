"""`edgedeploy models`: the zoo as tables that a terminal of 80 columns shows unfolded."""

from __future__ import annotations

import pytest

from edgedeploy.models import catalog
from tests.cli.conftest import Cli


def test_the_table_fits_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("models").out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[1] for line in lines if line.startswith("│")]
    assert sorted(names) == [row["name"] for row in catalog.read_catalog()]  # a folded cell would add a line
