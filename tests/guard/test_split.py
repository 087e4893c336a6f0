"""The two parts of the data share nothing, and labels are found in the scored one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedeploy.calibration.collect.arrays import array_feeds
from edgedeploy.core.errors import CalibrationError
from edgedeploy.guard.split import Parts, split


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cv2.imwrite(str(path), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return path


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*.png")}


def test_folder_is_divided_and_both_sides_are_spread(tmp_path: Path) -> None:
    for index in range(20):
        picture(tmp_path / "photos" / f"{index:02}.png", index)
    parts = split(tmp_path / "photos", tmp_path / "out", 6, 5)
    calibration, scored = names(parts.calibration), names(parts.scored)
    assert (len(calibration), len(scored)) == (parts.calibrating, parts.scoring) == (6, 5)
    assert not calibration & scored
    assert max(calibration) > "15.png"
    assert min(scored) < "05.png"
    again = split(tmp_path / "photos", tmp_path / "again", 6, 5)
    assert names(again.scored) == scored, "the same every time"


def test_copies_and_companions_stay_on_one_side(tmp_path: Path) -> None:
    data = tmp_path / "set"
    for index in range(8):
        picture(data / "HR" / f"n{index}.png", index)
        picture(data / "LRx3" / f"n{index}.png", 100 + index)
    (data / "HR" / "copy.png").write_bytes((data / "HR" / "n0.png").read_bytes())
    parts = split(data, tmp_path / "out", 4, 8)
    digests = [{p.read_bytes() for p in side.rglob("*.png")} for side in (parts.calibration, parts.scored)]
    assert not digests[0] & digests[1]
    for side in (parts.calibration, parts.scored):
        low = {Path(name).name for name in names(side) if name.startswith("LRx3")}
        high = {Path(name).name for name in names(side) if name.startswith("HR")}
        assert low == high - {"copy.png"}


def test_labels_come_along_and_are_never_calibrated_on(tmp_path: Path) -> None:
    for index in range(6):
        picture(tmp_path / "val" / f"{index}.png", index)
        picture(tmp_path / "valannot" / f"{index}.png", 50 + index)
    inside = split(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", 3, 3)
    assert all(name.startswith("val/") for name in names(inside.calibration))
    assert {name.startswith("valannot/") for name in names(inside.scored)} == {True, False}
    beside = split(tmp_path / "val", tmp_path.parent / f"{tmp_path.name}-out2", 3, 3)
    assert (beside.scored.with_name("valannot") / "0.png").is_file()
    (tmp_path / "val" / "words.txt").write_text("")
    text = split(tmp_path / "val", tmp_path.parent / f"{tmp_path.name}-out3", 3, 3)
    assert (text.scored / "words.txt").is_file()


def test_labeled_images_are_taken_out_of_those_calibrated_on(tmp_path: Path) -> None:
    for index in range(5):
        picture(tmp_path / "photos" / f"{index}.png", index)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "other-name.png").write_bytes((tmp_path / "photos" / "3.png").read_bytes())
    parts = split(tmp_path / "photos", tmp_path / "out", 8, 8, tmp_path / "truth")
    assert names(parts.calibration) == {"0.png", "1.png", "2.png", "4.png"}
    assert parts.scored == tmp_path / "truth"
    with pytest.raises(CalibrationError, match="every image"):
        split(tmp_path / "photos", tmp_path / "out2", 8, 8, tmp_path / "photos")


def test_rows_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(10.0, dtype=np.float32)[:, None])
    parts = split(tmp_path / "rows.npz", tmp_path / "out", 4, 3)
    values = [{float(row["x"][0, 0]) for row in array_feeds(p, 99, ("x",))} for p in paths(parts)]
    assert [len(v) for v in values] == [4, 3]
    assert not values[0] & values[1]


def test_frames_of_a_clip(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(9):
            frame = np.full((32, 32, 3), index * 25, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    parts = split(tmp_path / "clip.mp4", tmp_path / "out", 3, 3)
    assert len(names(parts.calibration)) == len(names(parts.scored)) == 3
    assert not names(parts.calibration) & names(parts.scored)


def test_too_little_is_refused(tmp_path: Path) -> None:
    one = picture(tmp_path / "photos" / "a.png", 0)
    for data in (one, tmp_path / "photos"):
        with pytest.raises(CalibrationError):
            split(data, tmp_path / "out", 4, 4)


def paths(parts: Parts) -> tuple[Path, Path]:
    return parts.calibration, parts.scored
