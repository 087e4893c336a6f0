"""The demo end to end: threads, queues, views, statistics, and a clean end whatever happens."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from edgedeploy.backend import Session
from edgedeploy.core.errors import DeviceError, OutputError, SourceLostError, UsageError
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.demo.channel import Channel, Closed
from edgedeploy.demo.frames import Frame, as_rgb
from edgedeploy.demo.run import run_demo
from edgedeploy.demo.sink import NullSink, Sink
from edgedeploy.demo.sources import Source
from edgedeploy.vision.images import read_image, write_image
from tests.support.demo_tools import color_model, level, nearest_model, read_luma, write_clip

PATIENCE_S = 20.0  # only a test that fails waits so long


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return nearest_model(tmp_path / "nearest.onnx")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mkv", 20)


class Camera(Source):
    """A live source that gives a frame whenever it is allowed to."""

    def __init__(self, count: int = 1_000_000, live: bool = True) -> None:
        super().__init__("camera", live, 16, 12, 30.0)
        self.count, self.given, self.closed = count, 0, 0
        self.allowed, self.flowing = threading.Semaphore(0), False

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            assert self.flowing or self.allowed.acquire(timeout=PATIENCE_S)
            self.given = index + 1
            image = np.full((12, 16, 3), 8 * index % 256, np.uint8)
            yield Frame(index, index / 30, time.perf_counter(), image, f"{index}")

    def close(self) -> None:
        self.closed += 1


class Collect(Sink):
    """Keeps what it gets, and does what the test asks for at every picture."""

    def __init__(self, then: Any = None) -> None:
        self.pictures: list[Any] = []
        self.times: list[float] = []
        self.ends: list[str] = []
        self.then = then or bool

    def write(self, picture: Any, timestamp: float, name: str) -> bool:  # noqa: ARG002
        self.pictures.append(as_rgb(picture))
        self.times.append(timestamp)
        return bool(self.then(len(self.pictures)))

    def finish(self) -> None:
        self.ends.append("finish")

    def abort(self) -> None:
        self.ends.append("abort")


def running_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("read", "infer")]


def test_a_channel_keeps_order_and_makes_its_producer_wait() -> None:
    channel: Channel[int] = Channel(3)
    full = threading.Event()

    def produce() -> None:
        for item in range(10):
            if item == 3:
                full.set()
            channel.put(item)
        channel.end()

    thread = threading.Thread(target=produce)
    thread.start()
    assert full.wait(PATIENCE_S)
    assert list(channel) == list(range(10))
    thread.join()
    assert channel.dropped == 0


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_channel_of_the_latest_forgets_the_oldest(capacity: int) -> None:
    channel: Channel[int] = Channel(capacity, latest=True)
    for item in range(5):
        channel.put(item)
    channel.end()
    assert list(channel) == [3, 4][-capacity:]
    assert channel.dropped == 5 - capacity


def test_an_error_overtakes_waiting_items_and_a_cancelled_channel_stops_its_producer() -> None:
    channel: Channel[int] = Channel(3)
    channel.put(1)
    channel.end(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        next(iter(channel))
    channel = Channel(1)
    channel.put(1)
    refused: list[type] = []

    def produce() -> None:
        try:
            channel.put(2)
        except Closed:
            refused.append(Closed)

    waiting = threading.Thread(target=produce)
    waiting.start()
    channel.cancel()
    waiting.join(PATIENCE_S)
    assert refused == [Closed]
    assert list(channel) == []


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_goes_through_whole_and_in_order(
    tmp_path: Path, model: Artifact, clip: Path, backend: str
) -> None:
    pytest.importorskip(backend)
    calls: list[tuple[int, int | None]] = []
    stats = run_demo(
        model,
        str(clip),
        str(tmp_path / "out.mp4"),
        backend=backend,
        on_frame=lambda *call: calls.append(call),
    )
    lumas = read_luma(tmp_path / "out.mp4")
    assert [luma.shape for luma in lumas] == [(96, 128)] * 20
    for index, luma in enumerate(lumas):
        assert np.abs(luma.astype(int) - level(index)).max() <= 3
    assert (stats.frames, stats.dropped, stats.interrupted) == (20, 0, False)
    assert stats.path == tmp_path / "out.mp4"
    assert stats.fps == pytest.approx(20 / stats.seconds)
    assert 0 < stats.model_ms_p50 <= stats.age_ms_p50 <= stats.age_ms_p95
    assert [count for count, _ in calls] == list(range(1, 21))
    assert not running_threads()


def test_a_limit_ends_the_run_early(tmp_path: Path, model: Artifact, clip: Path) -> None:
    stats = run_demo(model, str(clip), str(tmp_path / "out.mp4"), limit=7)
    assert stats.frames == 7
    assert len(read_luma(tmp_path / "out.mp4")) == 7
    with pytest.raises(UsageError, match="cannot show 0"):
        run_demo(model, str(clip), "null", limit=0)


@pytest.mark.parametrize("size", [(64, 48), (35, 27), (36, 27)])
def test_side_by_side_of_video(tmp_path: Path, size: tuple[int, int]) -> None:
    model = nearest_model(tmp_path / "x3.onnx", scale=3)
    source = write_clip(tmp_path / "clip.mkv", 3, *size)
    sink = Collect()
    run_demo(model, str(source), sink, view="side-by-side")
    width, height = 3 * size[0], 3 * size[1]
    half = width + width % 2
    assert {picture.shape for picture in sink.pictures} == {(height, half + width, 3)}
    for picture in sink.pictures:  # a flat picture: both ways of enlarging agree but for the captions
        left, right = picture[height // 2 :, :width].astype(int), picture[height // 2 :, half:].astype(int)
        assert np.abs(left[:, :-2] - right[:, :-2]).max() <= 2
        assert np.abs(left - left[0, 0]).max() <= 2


def test_side_by_side_of_images_shows_the_difference(tmp_path: Path, model: Artifact) -> None:
    checks = np.indices((24, 24)).sum(0)[:, :, None].repeat(3, 2) % 2 * 255
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/a.png", checks.astype(np.uint8))
    run_demo(model, str(tmp_path / "in"), str(tmp_path / "out"), view="side-by-side")
    picture = read_image(tmp_path / "out/a.png")
    assert picture.shape == (48, 96, 3)
    enlarged = checks.astype(np.uint8).repeat(2, 0).repeat(2, 1)
    cubic = cv2.resize(checks.astype(np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)
    below = np.s_[24:]  # the captions are above
    assert np.abs(picture[below, :48].astype(int) - cubic[below]).max() == 0
    assert np.abs(picture[below, 48:].astype(int) - enlarged[below]).max() <= 2


@pytest.mark.parametrize(("view", "width"), [("result", 64), ("side-by-side", 128)])
def test_segmentation_of_video(tmp_path: Path, clip: Path, view: str, width: int) -> None:
    sink = Collect()
    stats = run_demo(color_model(tmp_path / "colors.onnx"), str(clip), sink, view=view, limit=3)
    assert stats.frames == 3
    assert {picture.shape for picture in sink.pictures} == {(48, width, 3)}


def test_views_and_sinks_are_checked_before_anything_is_read(model: Artifact, clip: Path) -> None:
    with pytest.raises(UsageError, match="unknown view"):
        run_demo(model, str(clip), "null", view="upside-down")
    with pytest.raises(UsageError, match="is the source itself"):
        run_demo(model, str(clip), str(clip))


def test_a_static_model_takes_video_of_another_size(tmp_path: Path, clip: Path) -> None:
    model = nearest_model(tmp_path / "static.onnx", size=(40, 80))
    stats = run_demo(model, str(clip), str(tmp_path / "out.mkv"))
    assert stats.frames == 20
    assert read_luma(tmp_path / "out.mkv")[19].shape == (96, 128)


class Gated(Session):
    """A model that finishes a frame only when it is told to."""

    def __init__(self, artifact: Artifact, camera: Camera) -> None:
        super().__init__(artifact.inputs, artifact.outputs)
        self.camera, self.seen = camera, []

    def _run(self, feeds: Any) -> dict[str, Any]:
        luma = feeds["lr"]
        self.seen.append(luma.mean())
        target = self.camera.given + 10
        for _ in range(10):  # ten more frames come while this one is being worked on
            self.camera.allowed.release()
        deadline = time.monotonic() + PATIENCE_S
        while self.camera.given < target and not self.camera.closed and time.monotonic() < deadline:
            time.sleep(0.001)
        return {"sr": luma.repeat(2, 2).repeat(2, 3)}


def test_of_a_live_source_only_the_newest_frame_is_kept(model: Artifact) -> None:
    camera = Camera()
    session = Gated(model, camera)
    camera.allowed.release()

    def flow_on(count: int) -> bool:
        if count == 4:  # a camera does not stop because nobody looks
            camera.flowing = True
            camera.allowed.release()
        return True

    sink = Collect(flow_on)
    stats = run_demo(model, camera, sink, session=session, limit=4)
    assert stats.frames == 4
    assert stats.dropped >= 20
    shown = [round(timestamp * 30) for timestamp in sink.times]
    assert shown[0] == 0
    assert all(later - earlier >= 9 for earlier, later in itertools.pairwise(shown))
    assert camera.closed == 1
    assert sink.ends == ["finish"]


def test_the_same_frames_from_a_file_are_all_kept(model: Artifact) -> None:
    camera = Camera(count=30, live=False)
    camera.allowed.release(30)
    sink = Collect()
    stats = run_demo(model, camera, sink)
    assert (stats.frames, stats.dropped) == (30, 0)
    shown = [round(int(picture[0, 0, 0]) / 8) for picture in sink.pictures]
    assert shown == list(range(30))


def test_an_interrupt_ends_the_file_properly(tmp_path: Path, model: Artifact, clip: Path) -> None:
    def interrupt(count: int, _total: int | None) -> None:
        if count == 5:
            raise KeyboardInterrupt

    stats = run_demo(model, str(clip), str(tmp_path / "out.mp4"), on_frame=interrupt)
    assert stats.interrupted
    assert stats.frames == 5
    assert len(read_luma(tmp_path / "out.mp4")) == 5
    assert not running_threads()


def test_a_sink_can_ask_to_stop(model: Artifact, clip: Path) -> None:
    stats = run_demo(model, str(clip), Collect(lambda count: count < 3))
    assert stats.frames == 3


class Broken(Session):
    def _run(self, feeds: Any) -> dict[str, Any]:
        if float(feeds["lr"].mean()) * 255 > level(6):
            raise DeviceError("the device is gone")
        return {"sr": feeds["lr"].repeat(2, 2).repeat(2, 3)}


def test_an_error_of_the_model_leaves_no_file(tmp_path: Path, model: Artifact, clip: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DeviceError, match="gone"):
        run_demo(model, str(clip), str(tmp_path / "out.mp4"), session=Broken(model.inputs, model.outputs))
    assert sorted(tmp_path.iterdir()) == before
    assert not running_threads()


def test_an_error_of_the_sink_reaches_the_caller(model: Artifact, clip: Path) -> None:
    def fail(count: int) -> bool:
        if count == 4:
            raise OutputError("disk full")
        return True

    sink = Collect(fail)
    with pytest.raises(OutputError, match="disk full"):
        run_demo(model, str(clip), sink)
    assert sink.ends == ["abort"]
    assert not running_threads()


class Dying(Camera):
    def frames(self) -> Iterator[Frame]:
        yield from super().frames()
        raise DeviceError("camera stopped")


def test_an_error_of_the_source_leaves_no_file(tmp_path: Path, model: Artifact) -> None:
    camera = Dying(count=3, live=False)
    camera.allowed.release(3)
    with pytest.raises(DeviceError, match="camera stopped"):
        run_demo(model, camera, str(tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()
    assert camera.closed == 1


class Unplugged(Camera):
    def frames(self) -> Iterator[Frame]:
        yield from super().frames()
        raise SourceLostError("camera 0 stopped", "check its cable")


def test_what_came_before_a_source_was_lost_is_kept_and_told(tmp_path: Path, model: Artifact) -> None:
    camera, out = Unplugged(count=3, live=False), tmp_path / "out.mp4"
    camera.allowed.release(3)
    with pytest.raises(SourceLostError, match=r"stopped; .*out\.mp4 holds the 3 frames until then") as caught:
        run_demo(model, camera, str(out))
    assert caught.value.hint == "check its cable"
    assert len(read_luma(out)) == 3
    assert camera.closed == 1


def test_a_source_that_is_lost_before_its_first_frame_leaves_no_file(tmp_path: Path, model: Artifact) -> None:
    with pytest.raises(SourceLostError, match=r"stopped$"):
        run_demo(model, Unplugged(count=0, live=False), str(tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()


def test_a_model_of_open_batch_and_fixed_size_runs_on_a_clip_of_another_size(
    tmp_path: Path, clip: Path
) -> None:
    artifact = nearest_model(tmp_path / "fixed.onnx", size=(24, 32))
    network = onnx.load(artifact.path)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del network.metadata_props[:]
    onnx.save(network, tmp_path / "batch.onnx")
    task = TaskSpec(name="super-resolution", options={"scale": 2, "mean": [0.0], "std": [255.0]})
    foreign = Artifact.load(tmp_path / "batch.onnx").model_copy(update={"task": task})
    assert run_demo(foreign, str(clip), Collect(), limit=2).frames == 2


def test_the_speed_is_written_where_the_sink_wants_it(model: Artifact, clip: Path) -> None:
    plain, marked = Collect(), Collect()
    marked.wants_text = True
    run_demo(model, str(clip), plain, limit=1)
    run_demo(model, str(clip), marked, limit=1)
    assert plain.pictures[0].shape == marked.pictures[0].shape
    assert (plain.pictures[0] != marked.pictures[0]).any()


def test_nothing_is_left_open_where_the_sink_cannot_be_made(tmp_path: Path, model: Artifact) -> None:
    camera = Camera()
    with pytest.raises(UsageError, match="cannot write"):
        run_demo(model, camera, str(tmp_path / "out.gif"))
    assert camera.closed == 1
    assert run_demo(model, Camera(count=0), NullSink()).frames == 0
