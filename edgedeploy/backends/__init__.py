"""Inference runtimes, one file each."""

from edgedeploy.backend import BACKENDS, Backend, BuildOptions, OpenOptions, Session

__all__ = ["BACKENDS", "Backend", "BuildOptions", "OpenOptions", "Session"]
