"""Calibration inputs from every kind of source; what is damaged is skipped, what is missing is an error."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.lib import format as npy

from edgedeploy.calibration import DataReport, calibration_feeds
from edgedeploy.calibration.collect.sources import spread
from edgedeploy.core.errors import CalibrationError
from edgedeploy.core.image_header import image_kinds
from edgedeploy.core.spec import TensorSpec


def preprocess(image: np.ndarray) -> dict[str, np.ndarray]:
    assert image.dtype == np.uint8
    return {"x": image.transpose(2, 0, 1)[None].astype(np.float32) / 255}


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def draw(source: Any, limit: int = 64, **options: Any) -> tuple[list[dict[str, np.ndarray]], DataReport]:
    report = DataReport()
    return list(calibration_feeds(source, preprocess, limit, report=report, **options)), report


def test_folder_with_subfolders_in_rgb(tmp_path: Path) -> None:
    for index in range(9):
        write(tmp_path / f"class{index % 2}" / f"{index}.png", picture(index))
    (tmp_path / "notes.txt").write_text("not an image")
    feeds, report = draw(tmp_path)
    assert report == DataReport(used=9, sizes=1)
    assert report.warnings == ()
    wanted = preprocess(picture(0))["x"]
    assert any(np.array_equal(feed["x"], wanted) for feed in feeds)


def test_limit_takes_images_spread_over_the_folder(tmp_path: Path) -> None:
    for index in range(20):
        write(tmp_path / f"{index:02}.png", np.full((4, 4, 3), index, np.uint8))
    feeds, _ = draw(tmp_path, 4)
    assert [round(float(feed["x"].max()) * 255) for feed in feeds] == [0, 5, 10, 15]


def test_corrupt_images_are_counted_and_others_take_their_place(tmp_path: Path) -> None:
    for index in range(12):
        write(tmp_path / f"{index:02}.jpg", picture(index, 64, 64))
    whole = (tmp_path / "00.jpg").read_bytes()
    (tmp_path / "00.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "03.jpg").write_bytes(b"")
    write(tmp_path / "06.png", picture(6, 64, 64))
    (tmp_path / "06.png").write_bytes((tmp_path / "06.png").read_bytes()[:-200])
    feeds, report = draw(tmp_path, 10)
    assert len(feeds) == report.used == 10
    assert set(report.skipped) == {"00.jpg", "03.jpg", "06.png"}
    assert "3 files skipped" in report.warnings[0]


def exif(orientation: int) -> bytes:
    """An APP1 segment with the orientation alone, big-endian."""
    entry = struct.pack(">HHIHH", 274, 3, 1, orientation, 0)
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def test_gray_transparent_deep_and_turned_images_become_upright_rgb_and_are_told_of(tmp_path: Path) -> None:
    base = picture(0, 8, 12)
    gray, alpha = base[:, :, 0], np.full((8, 12, 1), 7, np.uint8)
    deep = base.astype(np.uint16) * 256 + 255
    files = {
        "gray.png": gray,
        "gray.jpg": np.full((8, 12), 90, np.uint8),
        "alpha.png": np.concatenate([base[:, :, ::-1], alpha], axis=2),
        "deep.png": deep[:, :, ::-1],
        "deep.tiff": deep[:, :, 0],
        "plain.png": base[:, :, ::-1],
    }
    for name, pixels in files.items():
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    wide = cv2.imencode(".jpg", np.full((8, 12, 3), (10, 100, 200), np.uint8))[1].tobytes()
    (tmp_path / "turned.jpg").write_bytes(wide[:2] + exif(6) + wide[2:])
    report = DataReport()
    feeds = list(calibration_feeds(tmp_path, preprocess, report=report))
    by_name = dict(zip(sorted([*files, "turned.jpg"]), (feed["x"][0] * 255 for feed in feeds), strict=True))
    assert report.kinds == {
        "grayscale": 3,
        "with transparency": 1,
        "of 16 bits": 2,
        "rotated by EXIF": 1,
    }
    rgb = base.transpose(2, 0, 1)
    for name in ("alpha.png", "deep.png", "plain.png"):
        np.testing.assert_allclose(by_name[name], rgb, atol=0.01)
    for name in ("gray.png", "deep.tiff"):
        np.testing.assert_allclose(by_name[name], np.stack([gray] * 3), atol=0.01)
    assert by_name["turned.jpg"].shape == (3, 12, 8)
    assert report.sizes == 2
    assert any("3 grayscale (repeated to RGB)" in line for line in report.warnings)
    assert any("2 different sizes" in line for line in report.warnings)


@pytest.mark.parametrize("cut", [3, 9, 25, 30, 60])
def test_headers_cut_short_are_read_as_far_as_they_go(cut: int) -> None:
    for suffix in (".png", ".jpg", ".tiff"):
        data = cv2.imencode(suffix, picture(1)[:, :, 0])[1].tobytes()
        assert set(image_kinds(data[:cut])) <= {"grayscale"}
    assert image_kinds(b"") == ()


def test_few_and_duplicate_images_warn(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", picture(0))
    _, report = draw(tmp_path)
    assert report.duplicates == 2
    assert [line.split(":")[0] for line in report.warnings] == [
        "only 3 calibration inputs",
        "2 of 3 calibration inputs are duplicates",
    ]


def test_report_starts_afresh_with_every_pass(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(0))
    report = DataReport()
    for _ in range(2):
        assert len(list(calibration_feeds(tmp_path, preprocess, report=report))) == report.used == 1
        assert report.duplicates == 0


def test_single_image_is_resized_to_the_size_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(0))
    feeds, _ = draw(tmp_path / "a.png", size=(8, 10))
    assert [feed["x"].shape for feed in feeds] == [(1, 3, 8, 10)]


def test_video_frames_are_spread_over_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), index * 10, np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    feeds, _ = draw(path, 4)
    assert [round(float(feed["x"].mean()) * 255) for feed in feeds] == [0, 50, 100, 150]


def test_arrays_by_name_or_alone_in_rows(tmp_path: Path) -> None:
    x, y = np.arange(60, dtype=np.float32).reshape(10, 2, 3), np.arange(10, dtype=np.int64)
    np.savez_compressed(tmp_path / "both.npz", x=x, y=y)
    feeds, _ = draw(tmp_path / "both.npz", 5, inputs=("x", "y"))
    assert [int(feed["y"][0]) for feed in feeds] == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(feeds[1]["x"], x[2:3])
    np.savez(tmp_path / "one.npz", images=x)
    np.save(tmp_path / "one.npy", x)
    for name in ("one.npz", "one.npy"):
        feeds, _ = draw(tmp_path / name, inputs=("x",))
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), x)


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


@pytest.mark.parametrize(("shape", "array", "count"), [
    ((1, 3, 8, 8), (6, 3, 8, 8), 6),  # rows
    (("n", 3, 8, 8), (6, 3, 8, 8), 6),
    (("n", 3, 8, 8), (6, 4, 3, 8, 8), 6),  # samples of a batch each
    ((4, 3, 8, 8), (12, 3, 8, 8), 3),  # whole batches, one behind the other
    ((4, 3, 8, 8), (4, 3, 8, 8), 1),
    ((4, 3, 8, 8), (5, 4, 3, 8, 8), 5),
    ((3, 8, 8), (6, 3, 8, 8), 6),  # pictures without a batch
    ((3, 8, 8), (3, 8, 8), 1),
    ((2, 1, 16), (5, 2, 1, 16), 5),  # states of a recurrent network
    ((), (7,), 7),  # scalars
    ((), (), 1),
])  # fmt: skip
def test_what_one_feed_takes_of_an_array_follows_from_the_input(
    tmp_path: Path, shape: tuple[int | str, ...], array: tuple[int, ...], count: int
) -> None:
    values = np.arange(np.prod(array, dtype=int), dtype=np.float32).reshape(array)
    np.savez(tmp_path / "a.npz", x=values)
    entry = spec("x", *shape)
    feeds, _ = draw(tmp_path / "a.npz", 99, inputs=("x",), specs=(entry,))
    assert len(feeds) == count
    assert all(feed["x"].ndim == len(shape) for feed in feeds)
    np.testing.assert_array_equal(np.concatenate([feed["x"].ravel() for feed in feeds]), values.ravel())
    few, _ = draw(tmp_path / "a.npz", 2, inputs=("x",), specs=(entry,))
    assert len(few) == min(2, count)


def test_one_feed_of_an_array_goes_with_each_of_the_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(4, dtype=np.float32).reshape(4, 1), limit=np.float32(0.5))
    feeds, _ = draw(tmp_path / "a.npz", inputs=("x", "limit"), specs=(spec("x", 1, 1), spec("limit")))
    assert [(feed["x"].item(), feed["limit"].item()) for feed in feeds] == [(i, 0.5) for i in range(4)]


def test_a_folder_of_arrays_holds_a_feed_or_more_in_each_file(tmp_path: Path) -> None:
    for index in range(6):
        np.savez(tmp_path / f"{index}.npz", x=np.full((4, 2), index, np.float32))
    feeds, _ = draw(tmp_path, 3, inputs=("x",), specs=(spec("x", 4, 2),))
    assert [float(feed["x"][0, 0]) for feed in feeds] == [0, 2, 4]
    feeds, _ = draw(tmp_path, 12, inputs=("x",), specs=(spec("x", "n", 2),))
    assert [float(feed["x"][0, 0]) for feed in feeds] == [i for i in range(6) for _ in range(2)]


def test_rows_that_are_no_whole_batches_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 2), np.float32))
    with pytest.raises(CalibrationError, match="6 rows, and the input takes 4 at a time") as caught:
        draw(tmp_path / "a.npz", inputs=("x",), specs=(spec("x", 4, 2),))
    assert "(N, 4, 2)" in caught.value.hint


def header(shape: tuple[int, ...]) -> bytes:
    """A .npy file of a hundred bytes that claims this shape."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(("shape", "message"), [
    ((10**9, 8), "ends early"),
    ((4, 10**9), "one feed has 3814 MB"),
    ((10**9, 0), "empty array"),
])  # fmt: skip
def test_what_a_header_claims_takes_neither_memory_nor_time(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    (tmp_path / "a.npy").write_bytes(header(shape))
    with pytest.raises(CalibrationError, match=message):
        draw(tmp_path / "a.npy", inputs=("x",))


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_damaged_archive_is_one_clear_line(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(60, dtype=np.float32).reshape(10, 6))
    data = bytearray(path.read_bytes())
    for value in (0x00, 0x63, 0xFF):
        data[place % len(data)] = value
        path.write_bytes(data)
        with contextlib.suppress(CalibrationError):  # not every byte is needed
            draw(path, inputs=("x",))


def test_arrays_that_do_not_fit_or_are_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3)), masks=np.zeros((3, 3)))
    with pytest.raises(CalibrationError, match="holds images, masks; the inputs are x"):
        draw(tmp_path / "a.npz", inputs=("x",))
    with pytest.raises(CalibrationError, match="rows"):
        draw(tmp_path / "a.npz", inputs=("images", "masks"))
    np.save(tmp_path / "object.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(CalibrationError, match="object"):
        draw(tmp_path / "object.npy", inputs=("x",))
    np.save(tmp_path / "cut.npy", np.zeros((4, 100)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-50])
    with pytest.raises(CalibrationError, match="ends early"):
        draw(tmp_path / "cut.npy", inputs=("x",))
    (tmp_path / "no.npz").write_bytes(b"PK nonsense")
    with pytest.raises(CalibrationError, match="not a whole array file"):
        draw(tmp_path / "no.npz", inputs=("x",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((9, 3, 4)), "dtype float64"),
        (np.zeros((9, 3, 5), np.float32), "shape"),
        (np.zeros((9, 3), np.float32), "shape"),
        (np.full((9, 3, 4), np.nan, np.float32), "NaN"),
        (np.full((9, 3, 4), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_rows_are_checked_against_the_inputs(rows: np.ndarray, message: str, tmp_path: Path) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 3, 4))
    np.savez(tmp_path / "a.npz", x=rows)
    with pytest.raises(CalibrationError, match=message) as caught:
        draw(tmp_path / "a.npz", inputs=("x",), specs=(spec,))
    assert str(spec) in caught.value.hint or "NaN" in message
    np.savez(tmp_path / "good.npz", x=np.zeros((9, 3, 4), np.float32))
    assert draw(tmp_path / "good.npz", inputs=("x",), specs=(spec,))[1].used == 9
    with pytest.raises(CalibrationError, match="'x' is missing"):
        draw([{"y": np.zeros((1, 3, 4), np.float32)}], specs=(spec,))


def test_iterables_of_images_and_of_feeds() -> None:
    feeds, _ = draw([picture(i) for i in range(3)], 2)
    assert len(feeds) == 2
    given = [{"x": np.zeros((1, 2), np.float32)}]
    assert draw(given)[0] == given
    with pytest.raises(CalibrationError, match="float64"):
        draw([np.zeros((4, 4, 3))])


def test_one_input_is_drawn_at_a_time() -> None:
    drawn = []

    def source() -> Iterator[np.ndarray]:
        for index in range(5):
            drawn.append(index)
            yield picture(index)

    for count, _ in enumerate(calibration_feeds(source(), preprocess, 3), start=1):
        assert len(drawn) == count
    assert drawn == [0, 1, 2]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no images"):
        draw(tmp_path)
    with pytest.raises(CalibrationError, match="does not exist"):
        draw(tmp_path / "absent")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match="no usable input: not a whole image") as caught:
        draw(tmp_path)
    assert caught.value.hint
    with pytest.raises(CalibrationError, match="no usable input"):
        draw([])


def test_spread_covers_everything_once() -> None:
    for count, limit in [(5, 9), (10, 3), (64, 64), (1, 1), (0, 4)]:
        order = spread(count, limit)
        assert sorted(order) == list(range(count))
        assert order[:limit] == sorted(order[:limit])
