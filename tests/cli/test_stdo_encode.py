"""Encoding a clip for real, small: better than interpolation, interrupted and resumed, refused in time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch

from edgedeploy.cli.console import Reporter, Stage
from edgedeploy.core.errors import UnknownNameError, UsageError
from edgedeploy.encode import run as encoding
from edgedeploy.encode.clip import read_clip
from edgedeploy.encode.networks import Patches
from edgedeploy.encode.options import EncodeOptions
from edgedeploy.encode.run import encode
from edgedeploy.models.training import overfit
from edgedeploy.stdo.bundle import Bundle, open_bundle
from edgedeploy.stdo.halo import HaloGrid
from edgedeploy.stdo.patches import PatchGrid
from edgedeploy.stdo.player import play
from edgedeploy.vision.resize import imresize
from tests.cli.conftest import Cli
from tests.support.stdo_tools import rgb_frames, write_video

QUICK = EncodeOptions(steps=60, batch=4, patch=(18, 24), limit=4)
SIZE = (71, 95)  # no multiple of anything
FRAMES = 5


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72x96 shown as 71x95: H.264 crops what 4:2:0 cannot hold."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    even = write_video(path.with_name("even.mp4"), FRAMES, 72, 96, sound=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in rgb_frames(even):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:71, :95]), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def per_chunk(clip: Path) -> Bundle:
    return encode(clip, clip.with_name("chunks"), QUICK, Reporter(quiet=True))


def changed(**options: object) -> EncodeOptions:
    fields = {name: getattr(QUICK, name) for name in ("steps", "batch", "patch", "limit")}
    return EncodeOptions(**{**fields, **options})  # type: ignore[arg-type]


def check(bundle: Bundle, clip: Path, tmp_path: Path) -> None:
    """The bundle is what its manifest says, better than interpolation, and plays."""
    manifest = bundle.manifest
    assert (manifest.width, manifest.height, manifest.frames) == (95, 71, 4)
    assert (manifest.low_width, manifest.low_height) == (48, 36)
    assert manifest.psnr.result > manifest.psnr.bicubic + 0.1
    stats = play(bundle, str(tmp_path / "out.mkv"), reference=clip)
    assert stats.demo.frames == 4
    assert stats.psnr == pytest.approx(manifest.psnr.result, abs=1e-3)
    assert rgb_frames(tmp_path / "out.mkv").shape == (4, 72, 96, 3)
    truth, low = rgb_frames(clip)[:4], rgb_frames(bundle.video)
    large = np.stack([imresize(frame, 72, 96)[:71, :95] for frame in low])
    error = np.mean((truth.astype(float) - large) ** 2)
    assert manifest.psnr.bicubic == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)


def test_a_network_for_each_chunk(per_chunk: Bundle, clip: Path, tmp_path: Path) -> None:
    check(per_chunk, clip, tmp_path)
    manifest = per_chunk.manifest
    assert [model.file for model in manifest.models] == ["chunk00.onnx", "chunk01.onnx"]
    assert sum(model.patches for model in manifest.models) == per_chunk.chunks.size == 4 * 4
    hard, easy = (model.psnr for model in manifest.models)
    assert hard is not None
    assert easy is not None
    assert hard < easy
    assert manifest.psnr.general is not None
    assert manifest.psnr.result > manifest.psnr.general
    assert not clip.with_name("chunks.partial").exists()
    text = "".join(model.to_json() for model in per_chunk.models)
    assert str(clip.parent) not in text  # nobody learns where it was made


def test_weights_are_stored_in_half_the_bytes(per_chunk: Bundle) -> None:
    assert per_chunk.manifest.precision == "fp16"
    model = onnx.load(per_chunk.models[0].path)
    kinds = {t.data_type for t in model.graph.initializer if np.prod(t.dims) >= 64}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert {spec.dtype for spec in (*per_chunk.models[0].inputs, *per_chunk.models[0].outputs)} == {"float32"}
    assert per_chunk.models[0].path.stat().st_size < 2 * 60_716 + 10_000


@pytest.mark.slow
def test_one_joint_network(clip: Path, tmp_path: Path) -> None:
    bundle = encode(clip, tmp_path / "joint", changed(joint=True), Reporter(quiet=True))
    check(bundle, clip, tmp_path)
    assert [model.file for model in bundle.manifest.models] == ["joint.onnx"]
    assert bundle.manifest.chunks is None


@pytest.mark.slow
def test_one_network_of_another_kind_in_fp32(clip: Path, tmp_path: Path) -> None:
    options = changed(model="stdo_vdsr_x2", chunks=1, precision="fp32", halo=4)
    bundle = encode(clip, tmp_path / "vdsr", options, Reporter(quiet=True))
    assert bundle.manifest.psnr.general is None
    assert bundle.manifest.psnr.result > bundle.manifest.psnr.bicubic
    assert bundle.manifest.precision == "fp32"
    assert bundle.total_bytes < 120_000


class Interrupting(Reporter):
    """The user presses Ctrl-C in the middle of a stage."""

    def __init__(self, title: str, done: int) -> None:
        super().__init__(quiet=True)
        self.title, self.done = title, done

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        with super().stage(title) as stage:
            if title.startswith(self.title):
                stage.progress = self._stop  # type: ignore[method-assign]
            yield stage

    def _stop(self, done: int, total: int | None) -> None:  # noqa: ARG002
        if done == self.done:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_encoding_goes_on(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bundle"
    monkeypatch.setattr(overfit, "SAVE_EVERY", 25)
    with pytest.raises(KeyboardInterrupt):
        encode(clip, out, QUICK, Interrupting("train chunk01", 40))
    assert not out.exists()
    partial = tmp_path / "bundle.partial"
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    assert {path.name for path in kept} == {"general.safetensors", "chunk00.safetensors"}
    assert [path.name for path in partial.glob("*.state")] == ["chunk01.state"]
    assert torch.load(partial / "chunk01.state", weights_only=True)["step"] == 25
    (tmp_path / "whole.partial").mkdir()
    for name in ("key", "low.mp4", "low.json"):
        shutil.copy(partial / name, tmp_path / "whole.partial")
    with pytest.raises(UsageError, match="belongs to another encoding"):
        encode(clip, out, changed(seed=1), Reporter(quiet=True))
    replaced = {}
    monkeypatch.setattr(
        encoding, "_replace", lambda *a, put=encoding._replace: (replaced.update(_times(kept)), put(*a))
    )
    again = encode(clip, out, QUICK, Reporter(quiet=True))
    assert replaced == kept  # nothing finished was made again
    assert not partial.exists()
    monkeypatch.undo()
    # Another run of the same low-resolution video, not interrupted after it, gives the same.
    whole = encode(clip, tmp_path / "whole", QUICK, Reporter(quiet=True))
    assert again.manifest.psnr == whole.manifest.psnr
    np.testing.assert_array_equal(again.chunks, whole.chunks)
    for one, other in zip(again.models, whole.models, strict=True):
        ours, theirs = (onnx.load(model.path).graph.initializer for model in (one, other))
        assert [t.raw_data for t in ours] == [t.raw_data for t in theirs]


def _times(paths: dict[Path, int]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


def test_what_exists_is_replaced_by_force_alone(per_chunk: Bundle, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "letter.txt").write_text("keep me")
    options = changed(steps=0, chunks=1)
    with pytest.raises(UsageError, match="exists already"):
        encode(clip, out, options, Reporter(quiet=True))
    assert (out / "letter.txt").read_text() == "keep me"
    encode(clip, out, options, Reporter(quiet=True), force=True)
    assert sorted(path.name for path in out.iterdir()) == ["general.onnx", "low.mp4", "manifest.json"]
    # Without a step it is interpolation, but for rounding.
    manifest = open_bundle(out).manifest
    assert manifest.psnr.result == pytest.approx(manifest.psnr.bicubic, abs=0.1)


def test_batches_are_patches_of_decoded_frames_and_their_truth(clip: Path, tmp_path: Path) -> None:
    pixels = read_clip(clip, QUICK, tmp_path)
    np.testing.assert_array_equal(pixels.low, rgb_frames(pixels.video))
    np.testing.assert_array_equal(pixels.high, rgb_frames(clip)[:4])
    grid = HaloGrid(PatchGrid(36, 48, 18, 24), 4)
    low, high = Patches(pixels, grid, np.array([2 * 4 + 3]), 2).draw(np.random.default_rng(0))
    assert (low.shape, high.shape) == ((2, 26, 32, 3), (2, 36, 48, 3))
    np.testing.assert_array_equal(low[0], grid.cut(grid.extended(pixels.low[2]), 3))
    np.testing.assert_array_equal(high[0], pixels.target(2)[36:, 48:])
    shrunk = imresize(np.pad(pixels.high[2], ((0, 1), (0, 1), (0, 0)), mode="edge"), 36, 48)
    lost = [np.abs((shrunk - pixels.low[frame].astype(float)).mean(axis=2)).mean() for frame in (2, 1)]
    assert lost[0] < 8 < lost[1]  # what the codec left of this frame, not of another


def test_sound_goes_into_the_bundle(clip: Path, tmp_path: Path) -> None:
    source = write_video(tmp_path / "sound.mp4", 3, 72, 96, sound=True)
    bundle = encode(source, tmp_path / "bundle", changed(steps=0, chunks=1), Reporter(quiet=True))
    assert bundle.manifest.audio == ""
    assert play(bundle, str(tmp_path / "out.mp4")).sound == ""
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert sum(frame.samples for frame in written.decode(audio=0)) > 3000


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "espcn_x2"}, UsageError, "does not enlarge RGB"),
        ({"model": "stdo_espnc_x2"}, UnknownNameError, "unknown model"),
        ({"scale": 3}, UsageError, "enlarges by 2, not 3"),
        ({"precision": "fp8"}, UsageError, "unknown precision"),
        ({"chunks": 0}, UsageError, "chunks is 0"),
        ({"crf": 60}, UsageError, "crf is 60"),
        ({"patch": (4, 40)}, UsageError, "patch is 4"),
    ],
)
def test_options_are_checked_first(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EncodeOptions(**options)  # type: ignore[arg-type]


def test_what_is_no_video_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for name, message in (("text.mp4", "is not a video"), ("none.mp4", "is not a video file")):
        outcome = cli("stdo", "encode", tmp_path / name, "-o", tmp_path / "bundle")
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.mp4"]


def test_the_command_line_tells_bytes_and_quality(cli: Cli, per_chunk: Bundle) -> None:
    table = cli("stdo", "info", per_chunk.folder)
    assert table.code == 0
    for part in ("low.mp4, 48x36", "chunk01.onnx, fp16", "chunks.bin", "bicubic x2", "one general network"):
        assert part in table.out
    told = json.loads(cli("stdo", "info", per_chunk.folder, "--json").out)
    assert told["total_bytes"] == sum(path.stat().st_size for path in per_chunk.folder.iterdir())
    played = json.loads(cli("stdo", "play", per_chunk.folder, "--sink", "null", "--json").out)
    assert played["demo"]["frames"] == 4


def test_threads_can_be_told(cli: Cli, clip: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    network = ("--model", "stdo_espcn_micro_x2", "--chunks", 1, "--steps", 1, "--batch", 1)
    told = ("--threads", 2, *network, "--patch", "18x24", "--limit", 1)
    try:
        outcome = cli("stdo", "encode", clip, "-o", tmp_path / "bundle", *told)
        assert (outcome.code, torch.get_num_threads()) == (0, 2), outcome.err
    finally:
        torch.set_num_threads(before)
