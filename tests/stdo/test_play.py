"""Playing a bundle: every patch by its own network, no seams inside one, sound, PSNR, hostile videos."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.demo.sink import Sink
from edgedeploy.stdo.bundle import open_bundle, stored_file
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.manifest import decibel, read_manifest, write_manifest
from edgedeploy.stdo.patches import PatchGrid
from edgedeploy.stdo.player import play
from edgedeploy.stdo.restorer import FRAME, INDEX, RESTORED, Restorer
from edgedeploy.stdo.sound import copy_sound
from tests.support.commands import command, modules_after
from tests.support.demo_tools import write_clip
from tests.support.stdo_tools import make_bundle, rgb_frames, structured_frame, write_video


def restored(folder: Path, **options: bool) -> np.ndarray:
    bundle = open_bundle(folder)
    with Restorer(bundle, **options) as restorer:
        return np.stack(
            [
                restorer({FRAME: frame, INDEX: np.array([index])})[RESTORED]
                for index, frame in enumerate(rgb_frames(bundle.video))
            ]
        )


def by_hand(folder: Path, gains: tuple[float, ...]) -> np.ndarray:
    """What the box blur and repetition of `rgb_model` give, written with OpenCV alone."""
    bundle = open_bundle(folder)
    frames = []
    for frame, chunks in zip(rgb_frames(bundle.video), bundle.chunks, strict=True):
        blurred = cv2.blur(frame.astype(np.float64), (3, 3), borderType=cv2.BORDER_REPLICATE)
        for index, chunk in enumerate(chunks):
            y, x = divmod(index, 3)  # 50 columns are 3 patches of 20
            blurred[16 * y : 16 * (y + 1), 20 * x : 20 * (x + 1)] *= gains[chunk]
        frames.append(np.rint(blurred).repeat(2, 0).repeat(2, 1)[:73, :97])
    return np.stack(frames)


@pytest.mark.parametrize("models", [1, 2])
def test_every_patch_comes_from_its_own_network(tmp_path: Path, models: int) -> None:
    folder = make_bundle(tmp_path / "bundle", models)
    result = restored(folder, full_frame=False)
    assert result.shape == (3, 73, 97, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - by_hand(folder, (1.0, 0.5))).max() <= 1


def test_a_halo_leaves_no_seams_and_none_leaves_them(tmp_path: Path) -> None:
    whole = restored(make_bundle(tmp_path / "halo", halo=1)).astype(int)
    patches = restored(tmp_path / "halo", full_frame=False).astype(int)
    assert np.abs(whole - patches).max() <= 1
    without = restored(make_bundle(tmp_path / "none", halo=0), full_frame=False).astype(int)
    difference = np.abs(whole - without).max(axis=(0, 3))
    assert difference[31:33].min() >= 10  # a border between patches, rows 31 and 32 enlarged
    assert difference[4:28, 4:36].max() <= 1


def test_several_networks_do_not_take_whole_frames(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot take a frame at once"):
        restored(make_bundle(tmp_path / "bundle", 2), full_frame=True)


@pytest.mark.parametrize(("size", "patch", "halo"), [((38, 50), (16, 20), 3), ((32, 40), (16, 20), 0)])
def test_cut_and_paste_give_the_frame_back(
    size: tuple[int, int], patch: tuple[int, int], halo: int, rng: np.random.Generator
) -> None:
    grid = HaloGrid(PatchGrid(*size, *patch), halo)
    frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    extended, again = grid.extended(frame), np.zeros_like(frame)
    for index in range(grid.grid.count):
        patch_seen = grid.cut(extended, index)
        assert patch_seen.shape[:2] == grid.seen
        np.testing.assert_array_equal(grid.gather(frame, index), patch_seen)
        grid.paste(again, index, patch_seen, 1)
    np.testing.assert_array_equal(again, frame)
    with pytest.raises(ValueError, match="is not"):
        grid.extended(frame[1:])


class Keep(Sink):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def write(self, picture: object, timestamp: float, name: str) -> bool:  # noqa: ARG002
        self.pictures.append(picture.to_ndarray(format="rgb24"))  # type: ignore[attr-defined]
        return True


def test_a_file_has_every_frame_the_size_and_the_sound(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle", 2, frames=7))
    stats = play(bundle, str(tmp_path / "out.mp4"))
    assert (stats.demo.frames, stats.psnr, stats.sound) == (7, None, "")
    frames = rgb_frames(tmp_path / "out.mp4")
    assert frames.shape == (7, 74, 98, 3)  # 4:2:0 has even sides
    expected = restored(bundle.folder).astype(int)
    assert np.abs(frames[:, :73, :97].astype(int) - expected).mean() < 6  # H.264 and 4:2:0
    with av.open(str(tmp_path / "out.mp4")) as written, av.open(str(bundle.video)) as source:
        assert written.streams.video[0].average_rate == 25
        heard, sent = (b"".join(bytes(p) for p in c.demux(audio=0)) for c in (written, source))
        assert len(heard) > 1000
        assert sent.startswith(heard)


def test_psnr_is_that_of_what_is_restored(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle", 2))
    reference = tmp_path / "reference.mkv"
    with av.open(str(reference), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 97, 73, "yuv420p"
        for index in range(3):
            picture = av.VideoFrame.from_ndarray(structured_frame(index, 73, 97), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    stats = play(bundle, "null", reference=reference)
    truth, found = rgb_frames(reference).astype(float), restored(bundle.folder)
    assert stats.psnr == pytest.approx(decibel(float(np.mean((truth - found) ** 2))), abs=1e-3)
    assert play(bundle, "null", reference=reference, limit=1).psnr != stats.psnr


def test_a_reference_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    with pytest.raises(UsageError, match="is 96x72, the bundle 97x73"):
        play(bundle, "null", reference=write_video(tmp_path / "other.mp4", 3))
    short = write_clip(tmp_path / "short.mkv", 2, 97, 73)
    with pytest.raises(UsageError, match="ends after 2 frames"):
        play(bundle, str(tmp_path / "out.mp4"), reference=short)
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(UsageError, match="does not exist"):
        play(bundle, "null", reference=tmp_path / "nothing.mp4")


def test_side_by_side_and_limit(tmp_path: Path) -> None:
    bundle, sink = open_bundle(make_bundle(tmp_path / "bundle")), Keep()
    assert play(bundle, sink, view="side-by-side", limit=2).demo.frames == 2
    assert [picture.shape for picture in sink.pictures] == [(73, 194, 3)] * 2
    with pytest.raises(UsageError, match="unknown view"):
        play(bundle, "null", view="above")
    with pytest.raises(UsageError, match="cannot show 0"):
        play(bundle, "null", limit=0)


def test_a_video_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", 2)
    manifest = read_manifest(folder)
    for frames, height, width, message in ((5, 38, 50, "beyond the 3"), (3, 40, 50, "shape")):
        video = write_video(folder / "low.mp4", frames, height, width)
        write_manifest(folder, manifest.model_copy(update={"video": stored_file(video)}))
        with pytest.raises((ArtifactError, UsageError), match=message):
            play(open_bundle(folder), str(tmp_path / "out.mp4"))
        assert not (tmp_path / "out.mp4").exists()


def test_sound_is_copied_from_where_the_pictures_begin(tmp_path: Path) -> None:
    pictures, sound = write_video(tmp_path / "p.mp4", 10), write_video(tmp_path / "s.mp4", 50, sound=True)
    assert copy_sound(pictures, pictures, tmp_path / "none.mp4") == "it has no sound"
    assert not (tmp_path / "none.mp4").exists()
    assert copy_sound(pictures, sound, tmp_path / "out.mp4", offset=1.0) == ""
    with av.open(str(tmp_path / "out.mp4")) as out:
        seconds = [float(p.pts * p.time_base) for p in out.demux(audio=0) if p.pts is not None]
    assert max(seconds) < 0.4
    with av.open(str(sound)) as source, av.open(str(tmp_path / "out.mp4")) as out:
        sent = {bytes(p): float(p.pts * p.time_base) for p in source.demux(audio=0) if p.pts is not None}
        heard = [(bytes(p), float(p.pts * p.time_base)) for p in out.demux(audio=0) if p.pts is not None]
    moved = [sent[data] - time for data, time in heard if time > 0]
    assert len(moved) >= 10
    assert np.allclose(moved, 1.0, atol=0.03)


def test_playing_needs_neither_torch_nor_onnx(tmp_path: Path) -> None:
    folder, out = make_bundle(tmp_path / "bundle", 2), tmp_path / "out.mp4"
    loaded = modules_after(command("stdo", "play", folder, "--sink", out), tmp_path)
    assert out.stat().st_size > 0
    assert not loaded & {"torch", "onnx", "onnx_graphsurgeon", "onnxscript"}
    assert {"numpy", "cv2", "av"} <= loaded
    assert loaded & {"onnxruntime", "openvino"}
    assert not modules_after(command("stdo", "encode", "--help"), tmp_path) & {"torch", "numpy", "cv2", "av"}
