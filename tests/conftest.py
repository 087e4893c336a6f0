"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors and real data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("EDGEDEPLOY_SHARED", ROOT.parent / "shared"))
    if not (path / "reference").is_dir():
        pytest.skip(f"no shared material at {path} (set EDGEDEPLOY_SHARED)")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite tests/golden instead of comparing")


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Garbage is not searched for in what earlier files imported: a third of a second, each time."""
    gc.collect()
    gc.freeze()
