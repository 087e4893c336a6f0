"""The cache serves only whole, current results."""

from __future__ import annotations

import os
import time
from pathlib import Path

import onnx
import onnx.parser
import pytest

from edgedeploy.core import cache as cache_module
from edgedeploy.core.cache import Cache, data_digest, default_root, step_key
from edgedeploy.core.errors import OutputError
from edgedeploy.core.spec import Artifact

MODEL = '<ir_version: 8, opset_import: ["" : 19]> net (float[1] x) => (float[1] y) { y = Neg(x) }'


class Maker:
    """Writes a model, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> Artifact:
        self.calls += 1
        onnx.save(onnx.parser.parse_model(MODEL), folder / "net.onnx")
        return Artifact.load(folder / "net.onnx")


def test_made_once_then_served(tmp_path: Path) -> None:
    cache, make = Cache(tmp_path), Maker()
    first, was_there = cache.get_or_make("abc", make)
    assert not was_there
    second, was_there = cache.get_or_make("abc", make)
    assert was_there
    assert first == second
    assert make.calls == 1


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Artifact:
        (folder / "half.onnx").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Cache(tmp_path).get_or_make("abc", fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name != "ab"] == []


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache, make = Cache(tmp_path), Maker()
    artifact, _ = cache.get_or_make("abc", make)
    artifact.path.write_bytes(b"")
    again, was_there = cache.get_or_make("abc", make)
    assert not was_there
    assert again.path.stat().st_size > 0


def test_what_was_left_a_day_ago_is_swept(tmp_path: Path) -> None:
    old, new, once, kept = (
        tmp_path / name for name in ("9a/.making-old", "9a/.making-new", "on/once-1", "9a/9abc")
    )
    long_ago = time.time() - 90000  # a day, and no month
    for folder in (old, new, once, kept):
        folder.mkdir(parents=True)
        (folder / "half.onnx").write_text("half")
        if folder != new:
            os.utime(folder, (long_ago, long_ago))
    Cache(tmp_path).get_or_make("abc", Maker())
    assert [folder.exists() for folder in (old, new, once, kept)] == [False, True, False, True]


def test_what_nobody_asked_for_in_a_month_is_swept(tmp_path: Path) -> None:
    cache, months = Cache(tmp_path), time.time() - 40 * 86400
    unused, used = (cache.get_or_make(key, Maker())[0].path.parent for key in ("aa1", "bb2"))
    measured = tmp_path / "statistics" / "cc" / "cc3"
    measured.mkdir(parents=True)
    for folder in (unused, used, measured):
        os.utime(folder, (months, months))
    assert cache.get_or_make("bb2", Maker())[1]
    assert unused.exists(), "reading removes nothing"
    cache.get_or_make("dd4", Maker())
    assert [folder.exists() for folder in (unused, used, measured)] == [False, True, False]


def test_an_unwritable_cache_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        Cache(tmp_path / "file").get_or_make("abc", Maker())
    assert "EDGEDEPLOY_CACHE" in caught.value.hint


def test_keys_differ_in_every_part() -> None:
    keys = {
        step_key("a", "in", {"x": 1}),
        step_key("b", "in", {"x": 1}),
        step_key("a", "other", {"x": 1}),
        step_key("a", "in", {"x": 2}),
    }
    assert len(keys) == 4
    assert step_key("a", "in", {"x": 1, "y": 2}) == step_key("a", "in", {"y": 2, "x": 1})


def test_data_digest_sees_new_and_changed_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    first = data_digest(tmp_path)
    (tmp_path / "b.png").write_bytes(b"1")
    second = data_digest(tmp_path)
    (tmp_path / "b.png").write_bytes(b"12")
    assert len({first, second, data_digest(tmp_path)}) == 3


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDEPLOY_CACHE", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"
    monkeypatch.delenv("EDGEDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "edgedeploy"


def test_sources_and_bundled_weights_are_part_of_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newly bundled weights must not be answered by what was captured before they came."""
    (tmp_path / "package" / "core").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "package" / "models").symlink_to("../models", target_is_directory=True)
    monkeypatch.setattr(cache_module, "__file__", str(tmp_path / "package" / "core" / "cache.py"))
    digest = cache_module.code_digest.__wrapped__
    seen = {digest()}
    for name in ("package/core/spec.py", "models/net.py", "models/net-set.safetensors"):
        (tmp_path / name).write_text(name)
        seen.add(digest())
    assert len(seen) == 4
