"""The recorded list of models is that of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedeploy.models import catalog

RECORD_AGAIN = "record the zoo again: python -m edgedeploy.models.catalog"


def test_the_record_is_of_these_sources() -> None:
    assert json.loads(catalog.RECORD.read_text())["sources"] == catalog.sources_digest(), RECORD_AGAIN


def test_recorded_counts_are_those_of_the_networks() -> None:
    recorded = {row["name"]: row for row in catalog.read_catalog()}
    for row in catalog.count_models("espcn_x2", "slab_deit_micro", "tvconv_disc_cup_dw"):
        assert row == recorded[row["name"]], RECORD_AGAIN


@pytest.mark.slow
def test_every_row_is_that_of_the_network() -> None:
    assert catalog.count_models() == json.loads(catalog.RECORD.read_text())["models"], RECORD_AGAIN


@pytest.mark.parametrize("record", ["", '{"sources": "of another zoo", "models": []}'], ids=["none", "stale"])
def test_a_zoo_without_a_current_record_is_counted(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "RECORD", tmp_path / "catalog.json")
    if record:
        catalog.RECORD.write_text(record)
    monkeypatch.setattr(catalog, "count_models", lambda: ["counted"])
    assert catalog.read_catalog() == ["counted"]


def test_a_change_of_the_zoo_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "FOLDER", tmp_path)
    (tmp_path / "zoo").mkdir()
    digests = [catalog.sources_digest()]
    for name, text in [("zoo/net.py", "a"), ("zoo/net.py", "b"), ("zoo/other.py", "b")]:
        (tmp_path / name).write_text(text)
        digests.append(catalog.sources_digest())
    assert len(set(digests)) == 4
