"""A cache of step results: the same input, options and code give the same file, so it is made once.

An entry is a folder that is complete or absent. Its key covers the input's digest, the step's options, the
sources of this package and the versions of the libraries that do the work, so no result is stale. Entries
that no run has used for 30 days are removed: no run asks for those of an older version.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgedeploy.core.errors import EdgeDeployError, OutputError
from edgedeploy.core.files import sha256_text
from edgedeploy.core.installed import installed_version
from edgedeploy.core.spec import Artifact

LIBRARIES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx-graphsurgeon",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)
DAY_S = 86400
UNUSED_S = 30 * DAY_S


class Cache:
    """Artifacts by key below one folder.

    Args:
        root: the folder; None takes what `default_root` says.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def get_or_make(self, key: str | None, make: Callable[[Path], Artifact]) -> tuple[Artifact, bool]:
        """The artifact under `key`, and whether it was there already; without a key it is always made.

        `make(folder)` writes the artifact into an empty folder; its file name is kept. Damaged entries are
        made again. Raises OutputError where the cache cannot be written.
        """
        name = key or self._name_for_once()
        entry = self.root / name[:2] / name
        if entry.is_dir():
            try:
                found = Artifact.load(entry / (entry / "main").read_text())
            except (EdgeDeployError, OSError):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                mark_used(entry)
                return found, True
        try:
            self._sweep()
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".making-"))
        except OSError as error:
            raise OutputError(
                f"cannot write the cache {self.root}: {error.strerror}", "set EDGEDEPLOY_CACHE"
            ) from error
        try:
            main = make(folder).path.name
            (folder / "main").write_text(main)
            try:
                folder.rename(entry)
            except OSError:  # another process made the same entry first; theirs is as good
                shutil.rmtree(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Artifact.load(entry / main), False

    def _name_for_once(self) -> str:
        """A name that no later run asks for; `_sweep` removes the entry."""
        return f"once-{secrets.token_hex(16)}"

    def _sweep(self) -> None:
        """Remove old entries.

        Entries without a key and the unfinished ones of killed processes go after a day, artifacts and
        statistics UNUSED_S after their last use.
        """
        sweep = (
            ("on/once-*", DAY_S),
            ("*/.making-*", DAY_S),
            ("??/*", UNUSED_S),
            ("statistics/??/*", UNUSED_S),
        )
        for pattern, seconds in sweep:
            for entry in self.root.glob(pattern):
                try:
                    old = time.time() - entry.stat().st_mtime > seconds
                except FileNotFoundError:  # it was renamed or removed by another process just now
                    continue
                if old:
                    shutil.rmtree(entry, ignore_errors=True)


def mark_used(entry: Path) -> None:
    """Set the time of last use of an entry, if it exists."""
    with suppress(OSError):  # somebody else's cache can be read, too
        os.utime(entry)


def default_root() -> Path:
    """EDGEDEPLOY_CACHE, else XDG_CACHE_HOME/edgedeploy, else ~/.cache/edgedeploy."""
    if own := os.environ.get("EDGEDEPLOY_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgedeploy"


def statistics_root(making: Path) -> Path:
    """Folder of calibration statistics in the cache whose entry `making` is."""
    return making.parents[1] / "statistics"


def step_key(step: str, inputs: str, options: Any) -> str:
    """Key of one step: its name, its input (a digest), its options (JSON), our code and the libraries."""
    return sha256_text(step, inputs, json.dumps(options, sort_keys=True, default=str), code_digest())


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of this package's sources and bundled weights, and of the versions of LIBRARIES."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    links = [path for path in sorted(root.iterdir()) if path.is_symlink()]
    for folder in (root, *links):  # rglob does not enter links by itself
        for path in sorted(folder.resolve().rglob("*")):
            if path.suffix in {".py", ".toml", ".safetensors"}:
                digest.update(path.relative_to(folder.resolve()).as_posix().encode())
                digest.update(path.read_bytes())
    for name in LIBRARIES:
        digest.update(f"{name} {installed_version(name)}".encode())
    return digest.hexdigest()


def data_digest(path: Path) -> str:
    """Fingerprint of calibration data by names, sizes and modification times: large sets cost nothing."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    lines = []
    for file in files:
        stat = file.stat()
        lines.append(
            f"{file.relative_to(path) if path.is_dir() else file.name} {stat.st_size} {stat.st_mtime_ns}"
        )
    return sha256_text(*lines)
