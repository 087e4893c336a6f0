"""Writing pictures: contents, names, and every way in which a sink fails."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from edgedeploy.core.errors import (
    DeviceError,
    OutputError,
    UsageError,
)
from edgedeploy.demo import file_sinks, window_sink
from edgedeploy.demo.file_sinks import ImageSink, VideoSink
from edgedeploy.demo.sink import NullSink
from edgedeploy.demo.sinks import open_sink
from edgedeploy.demo.sources import open_source
from edgedeploy.vision.images import read_image
from tests.support.demo_tools import level, read_luma, write_clip


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("size", [(64, 48), (35, 27)])
def test_a_written_video_holds_the_pictures(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    source = open_source(str(write_clip(tmp_path / "clip.mkv", 10, *size)))
    sink = open_sink(str(tmp_path / f"out{suffix}"), source.fps)
    for frame in source.frames():
        assert sink.write(frame.content, frame.timestamp, frame.name)
        assert not (tmp_path / f"out{suffix}").exists()
    sink.finish()
    source.close()
    even = tuple(n + n % 2 for n in size)
    lumas = read_luma(tmp_path / f"out{suffix}")
    assert [luma.shape for luma in lumas] == [even[::-1]] * 10
    for index, luma in enumerate(lumas):
        assert np.abs(luma.astype(int) - level(index)).max() <= 3
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv", f"out{suffix}"]


def test_times_that_stand_still_are_moved_on(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 30)
    for timestamp in (0.0, 0.1, 0.1, 0.05, 0.2):
        sink.write(np.zeros((32, 32, 3), np.uint8), timestamp, "")
    sink.finish()
    assert len(read_luma(tmp_path / "out.mp4")) == 5


@pytest.mark.parametrize("written", [0, 3])
def test_nothing_is_left_of_an_aborted_video(tmp_path: Path, written: int) -> None:
    (tmp_path / "out.mp4").write_bytes(b"older")
    sink = VideoSink(tmp_path / "out.mp4", 25)
    for index in range(written):
        sink.write(np.zeros((32, 32, 3), np.uint8), index / 25, "")
    sink.abort()
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_a_video_without_pictures_is_not_written(tmp_path: Path) -> None:
    VideoSink(tmp_path / "out.mp4", 25).finish()
    assert not list(tmp_path.iterdir())


def test_pictures_of_two_sizes_do_not_fit_one_video(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "out.mp4", 25)
    sink.write(np.zeros((32, 32, 3), np.uint8), 0, "")
    with pytest.raises(UsageError, match="does not fit") as caught:
        sink.write(np.zeros((32, 34, 3), np.uint8), 1, "")
    assert "FOLDER" in caught.value.hint
    sink.abort()


def test_images_are_written_under_the_names_of_the_frames(tmp_path: Path) -> None:
    picture = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    folder = open_sink(str(tmp_path / "new/folder"), 25)
    for name in ("a", "b"):
        folder.write(picture, 0, name)
    folder.finish()
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == ["a.png", "b.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "new/folder/b.png"), picture)
    single = open_sink(str(tmp_path / "one.png"), 25)
    single.write(picture, 0, "a")
    with pytest.raises(UsageError, match="holds one picture"):
        single.write(picture, 0, "b")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in ("file/out.mp4", "file/folder", "file/one.png"):
        with pytest.raises(OutputError, match="cannot write"):
            open_sink(str(tmp_path / target), 25)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        open_sink(str(tmp_path / "taken.mp4"), 25)
    with pytest.raises(UsageError, match=r"cannot write \.gif") as caught:
        open_sink(str(tmp_path / "out.gif"), 25)
    assert ".mp4" in caught.value.hint
    assert isinstance(open_sink("null", 25), NullSink)
    assert isinstance(open_sink(str(tmp_path), 25), ImageSink)


def test_the_next_encoder_is_taken_where_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sinks, "ENCODERS", ("no-such-encoder", "mpeg4"))
    sink = VideoSink(tmp_path / "out.mp4", 25)
    for index in range(3):
        sink.write(np.full((32, 48, 3), 100, np.uint8), index / 25, "")
    sink.finish()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    monkeypatch.setattr(file_sinks, "ENCODERS", ("no-such-encoder",))
    with pytest.raises(OutputError, match="encode"):
        VideoSink(tmp_path / "other.mp4", 25)
    assert not (tmp_path / "other.mp4").exists()


def test_a_machine_without_a_display_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_sink.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DeviceError, match="no display") as caught:
        open_sink("window", 25)
    assert "--sink out.mp4" in caught.value.hint
    monkeypatch.setenv("DISPLAY", ":4242")
    with pytest.raises(DeviceError, match="does not answer"):
        open_sink("window", 25)
