"""Inference runtimes, one file each."""

from edgedeploy.backends.base import BACKENDS, Backend, BuildOptions, OpenOptions, Session

__all__ = ["BACKENDS", "Backend", "BuildOptions", "OpenOptions", "Session"]
