"""Versions of installed packages, without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str) -> str:
    """Version of a distribution by its pip name, "" if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
