"""Run a model of dynamic size on images of any size: one session per shape, the last few stay open.

Runtimes are fastest for a known shape, so each shape gets a session of its own.
"""

from __future__ import annotations

from collections import OrderedDict

from edgedeploy.backend import Feeds, OpenOptions, Outputs, Session
from edgedeploy.core.spec import Artifact, TensorSpec
from edgedeploy.runtime.select import open_artifact

KEEP = 4


class SessionPool:
    """`pool(feeds) -> outputs` like a Session, for every shape that the artifact allows."""

    def __init__(self, artifact: Artifact, *, threads: int = 0, backend: str | None = None) -> None:
        self.artifact, self.threads, self.backend = artifact, threads, backend
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self._open: OrderedDict[tuple[tuple[str, tuple[int, ...]], ...], Session] = OrderedDict()

    def __call__(self, feeds: Feeds) -> Outputs:
        key = tuple((name, value.shape) for name, value in sorted(feeds.items()))
        session = self._open.pop(key, None)
        if session is None:
            shapes = {name: shape for name, shape in key if any(spec.name == name for spec in self.inputs)}
            session = open_artifact(
                self.artifact, OpenOptions(shapes=shapes, threads=self.threads), self.backend
            )
        self._open[key] = session  # newest last
        if len(self._open) > KEEP:
            self._open.popitem(last=False)[1].close()
        return session(feeds)

    def __enter__(self) -> SessionPool:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()
