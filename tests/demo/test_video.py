"""Reading sources and writing sinks: order, counts, sizes, color range, and every way in which they fail."""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edgedeploy.calibration.collect.sources import video_images
from edgedeploy.core.errors import (
    DeviceError,
    MissingDependencyError,
    OutputError,
    SourceLostError,
    UsageError,
)
from edgedeploy.demo import file_sinks, window_sink
from edgedeploy.demo.file_sinks import ImageSink, VideoSink
from edgedeploy.demo.frames import as_rgb, as_yuv, new_yuv, planes
from edgedeploy.demo.run import run_demo
from edgedeploy.demo.sink import NullSink
from edgedeploy.demo.sinks import open_sink
from edgedeploy.demo.sources import open_source
from edgedeploy.vision import video
from edgedeploy.vision.images import read_image, write_image
from edgedeploy.vision.video import decode_video, open_video, read_video
from tests.support.demo_tools import level, nearest_model, read_luma, write_clip


def luma_of(content: object) -> float:
    return float(planes(as_yuv(content))[0].mean())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 48), (35, 27)])
def test_a_file_gives_every_frame_in_order(tmp_path: Path, size: tuple[int, int]) -> None:
    source = open_source(str(write_clip(tmp_path / "clip.mkv", 12, *size)))
    assert (source.width, source.height, source.live, source.fps) == (*size, False, 25)
    frames = list(source.frames())
    source.close()
    source.close()
    assert [frame.index for frame in frames] == list(range(12))
    assert [round(frame.timestamp * 25) for frame in frames] == list(range(12))
    assert [luma_of(frame.content) for frame in frames] == [level(i) for i in range(12)]
    assert all(a.captured_at <= b.captured_at for a, b in itertools.pairwise(frames))
    y, u, v = planes(frames[0].content)  # type: ignore[arg-type]
    assert y.shape == size[::-1]
    assert u.shape == v.shape == ((size[1] + 1) // 2, (size[0] + 1) // 2)
    assert (set(u.flat), set(v.flat)) == ({100}, {160})


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv422p"])
def test_other_pixel_formats_become_yuv420(tmp_path: Path, pixel_format: str) -> None:
    source = open_source(str(write_clip(tmp_path / "clip.mkv", 2, pixel_format=pixel_format)))
    content = next(source.frames()).content
    assert content.format.name == "yuv420p"  # type: ignore[union-attr]
    assert luma_of(content) == pytest.approx(level(0), abs=1)
    source.close()


def test_full_range_becomes_studio_range() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    for plane, value in zip(frame.planes, (255, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.color_range = 2
    assert luma_of(frame) == pytest.approx(235, abs=1)
    assert as_rgb(as_yuv(frame)).min() >= 253


def test_yuv_pictures_keep_studio_range_unchanged_and_rgb_makes_the_round_trip() -> None:
    image = np.full((20, 30, 3), (200, 60, 120), np.uint8)
    picture = as_yuv(image)
    assert as_yuv(picture) is picture
    assert np.abs(as_rgb(picture).astype(int) - image).max() <= 3
    assert as_rgb(image) is image
    copy = new_yuv(30, 20, picture)
    for old, new in zip(planes(picture), planes(copy), strict=True):
        new[:] = old
    np.testing.assert_array_equal(as_rgb(copy), as_rgb(picture))


# [a b; c d] of the display matrix -> what a picture looks like that is shown by it.
SHOWN: dict[tuple[int, int, int, int], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),  # clockwise, as phones write it
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, -1, 1, 0): lambda picture: np.rot90(picture, 1),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],  # a front camera's
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_every_reader_shows_a_video_as_its_display_matrix_says(
    matrix: tuple[int, int, int, int], tmp_path: Path
) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255  # top left
    picture[:24, 32:] = 100  # top right
    clip = tmp_path / "clip.mp4"
    sink = VideoSink(clip, 25)
    sink.write(picture, 0, "")
    sink.finish()
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12: version 0, the matrix follows 40 bytes of other fields
    a, b, c, d = (65536 * entry for entry in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    source = open_source(str(clip))
    demo = next(source.frames()).rgb
    source.close()
    (calibration,), (evaluation,) = video_images(clip, 1), read_video(clip)
    expected = SHOWN[matrix](picture)
    assert (source.height, source.width) == expected.shape[:2]
    for shown in (demo, calibration, evaluation):
        assert shown.shape == expected.shape
        assert np.abs(shown.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("turned", [False, True])
def test_a_written_video_keeps_the_shape_of_pixels(turned: bool, tmp_path: Path) -> None:
    clip, aspect = tmp_path / "clip.mp4", Fraction(16, 11)
    sink = VideoSink(clip, 25, pixel_aspect=aspect)
    sink.write(np.zeros((48, 64, 3), np.uint8), 0, "")
    sink.finish()
    if turned:
        data = bytearray(clip.read_bytes())
        at = data.index(b"tkhd") + 44
        data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        clip.write_bytes(data)
    run_demo(nearest_model(tmp_path / "nearest.onnx", 2), str(clip), str(tmp_path / "out.mp4"))
    with open_video(str(tmp_path / "out.mp4")) as written:
        assert written.streams.video[0].sample_aspect_ratio == (1 / aspect if turned else aspect)


def test_an_http_address_of_a_file_is_no_live_source(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", 6)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/clip.mkv")
        count, live = len(list(source.frames())), source.live
        source.close()
        server.shutdown()
        thread.join()
    assert (count, live) == (6, False)


def test_images_and_folders_are_sources(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_image(tmp_path / f"{name}.png", np.full((6, 9, 3), ord(name), np.uint8))
    (tmp_path / "notes.txt").touch()
    source = open_source(str(tmp_path))
    assert (source.total, source.width, source.height, source.live) == (2, 9, 6, False)
    assert [(frame.name, int(frame.rgb[0, 0, 0])) for frame in source.frames()] == [("a", 97), ("b", 98)]
    assert [frame.name for frame in open_source(str(tmp_path / "b.png")).frames()] == ["b"]


def test_read_video_is_rgb_and_stops_at_the_limit(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", 5)
    assert [image.shape for image in read_video(clip, limit=3)] == [(48, 64, 3)] * 3
    assert len(list(read_video(clip))) == 5


def test_sources_that_do_not_work_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "void").mkdir()
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    expected = {
        "absent.mp4": "does not exist",
        "text.mp4": "is not a video",
        "empty.mp4": "is not a video",
        "void": "holds no images",
        "cut.png": "not a whole image",
    }
    for name, words in expected.items():
        with pytest.raises(UsageError, match=words) as caught:
            open_source(str(tmp_path / name))
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_a_camera_or_address_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match="no camera 99") as caught:
        open_source("99")
    assert "--source" in caught.value.hint
    with pytest.raises(DeviceError, match="no camera 99999999999999999999"):
        open_source("9" * 5000)
    with pytest.raises(DeviceError, match="does not answer"):
        open_source("rtsp://127.0.0.1:9/none")
    assert capfd.readouterr() == ("", "")


def test_an_address_that_falls_silent_is_told_and_its_frames_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", 0.5)
    clip, out = write_clip(tmp_path / "clip.mkv", 25, 320, 240), tmp_path / "out.mp4"
    data, done = clip.read_bytes(), threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) * 3 // 4])
            self.wfile.flush()
            done.wait(20)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}/clip.mkv"
        try:
            with pytest.raises(
                SourceLostError, match=r"no answer for .* seconds; .*frames until then"
            ) as caught:
                run_demo(nearest_model(tmp_path / "nearest.onnx", 2), address, str(out))
        finally:
            done.set()
            server.shutdown()
    assert "network" in caught.value.hint
    assert 0 < len(read_luma(out)) < 25


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "http"])
def test_an_address_that_never_answers_ends(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(DeviceError, match="does not answer"):
            open_source(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/live/stream")
    assert time.monotonic() - begin < 10


def test_a_sound_file_has_no_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UsageError, match="no video stream"):
        open_source(str(path))


def test_a_truncated_video_gives_what_is_there_or_says_so(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mkv", 20, 320, 240).read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    source = open_source(str(tmp_path / "half.mkv"))
    frames = []
    try:
        frames.extend(source.frames())
    except UsageError as error:
        assert "damaged" in str(error)  # noqa: PT017  either is right, depending on where it was cut
    source.close()
    assert len(frames) < 20


def test_a_damaged_packet_ends_a_file_but_not_a_live_stream(tmp_path: Path) -> None:
    path = tmp_path / "clip.mov"
    with av.open(str(path), "w") as container:  # PNG, which checks what it decodes
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "rgb24"
        for index in range(8):
            image = np.full((24, 32, 3), 9 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    assert data.count(packets[4]) == 1
    path.write_bytes(data.replace(packets[4], bytes(len(packets[4]))))
    with (
        closing(open_video(str(path))) as container,
        pytest.raises(UsageError, match=r"damaged after \d frames"),
    ):
        list(decode_video(container, "clip"))
    with closing(open_video(str(path))) as container:
        assert len(list(decode_video(container, "clip", tolerant=True))) == 7


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.mkv", 1, 64, 48).read_bytes()
    (tmp_path / "header.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first Cluster
    with pytest.raises(UsageError, match=r"no frames|damaged|not a video"):
        list(open_source(str(tmp_path / "header.mkv")).frames())


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


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(MissingDependencyError, match="av") as caught:
        open_source(str(tmp_path / "clip.mp4"))
    assert "edgedeploy[demo]" in caught.value.hint
