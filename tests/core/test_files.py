"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from edgedeploy.core.errors import OutputError
from edgedeploy.core.files import check_writable, replacing, sha256_file, sha256_text, write_bytes, write_text


def test_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "clip.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path


def test_makes_missing_folders_and_honors_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.bin"
    before = os.umask(0o027)
    try:
        write_bytes(path, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_unwritable_places_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write") as caught, replacing(tmp_path / "file" / "a.onnx"):
        pass
    assert "another place" in caught.value.hint
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match="it is a folder"), replacing(tmp_path / "folder.onnx"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.onnx"]


def test_sha256_of_files_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"ab" * (1 << 20))
    assert sha256_file(path) == hashlib.sha256(b"ab" * (1 << 20)).hexdigest()
    assert sha256_text("ab", "c") != sha256_text("a", "bc")
    assert sha256_text("ab", "c") == sha256_text("ab", "c")


def test_a_place_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "deep" / "er" / "a.onnx")
    check_writable(tmp_path / "file")
    with pytest.raises(OutputError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "deep" / "a.onnx")
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        check_writable(tmp_path / ("long" * 100))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="is not writable"):
        check_writable(Path("a.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
