"""Deployments whose progress is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedeploy.core.cache import Cache
from edgedeploy.core.job import Job
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.pipeline import run


class Stage:
    summary = ""

    def progress(self, done: int, total: int | None) -> None:
        pass


class Listener:
    """Keeps what the pipeline tells: (title, summary) per step, and notes."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self.notes: list[str] = []

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        stage = Stage()
        yield stage
        self.stages.append((title, stage.summary))

    def note(self, text: str) -> None:
        self.notes.append(text)


def deploy(
    source: Path | str, cache: Path, *edits: str, until: str = "build", target: str = "cpu", **fields: object
) -> tuple[Artifact, Listener]:
    listener = Listener()
    job = Job(str(source), Recipe().edited(edits), load_target(target), **fields)  # type: ignore[arg-type]
    return run(job, listener, Cache(cache), until), listener
