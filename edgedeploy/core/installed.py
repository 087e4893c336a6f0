"""Which packages are installed, asked without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str) -> str:
    """Version of a distribution by the name that pip knows, "" where it is absent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
