"""Text detection: regions of a map, the way there and back, ICDAR's score, and a real detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgedeploy.core.errors import MissingDependencyError, UsageError
from edgedeploy.core.spec import Artifact, TaskSpec
from edgedeploy.runtime.pool import SessionPool
from edgedeploy.task import task_for
from edgedeploy.tasks.text_detection import TextDetection, content_size
from edgedeploy.vision.icdar import TextScore, Word, read_words, truth_files
from edgedeploy.vision.images import write_image
from edgedeploy.vision.text_regions import (
    RegionOptions,
    corners_of,
    find_regions,
    grow_box,
    grow_polygon,
    mean_inside,
    offset_polygon,
)
from tests.support.tasks import Size, task_on_images

Array = np.ndarray[Any, Any]


def make(size: Size = ("h", "w"), **options: Any) -> TextDetection:
    task = task_on_images(
        "text-detection", {"probability": (1, 1, *size)}, size, **{"short_side": 320, **options}
    )
    assert isinstance(task, TextDetection)
    return task


def quad(cx: float, cy: float, w: float, h: float, degrees: float = 0) -> Array:
    return corners_of(((cx, cy), (w, h), degrees))


def filled(shape: tuple[int, int], *polygons: Array) -> Array:
    image = np.zeros(shape, np.float32)
    for polygon in polygons:
        cv2.fillPoly(image, [np.rint(polygon).astype(np.int32)], [1.0])
    return image


def raster_iou(one: Array, two: Array, size: int = 400) -> float:
    """Intersection over union by counting pixels, eight to a unit each way."""
    a, b = (filled((size * 8, size * 8), polygon * 8) > 0 for polygon in (one, two))
    return float((a & b).sum() / (a | b).sum())


def words_as_bright_pixels(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network for which everything bright is text."""
    return {"probability": (feeds["image"].mean(1, keepdims=True) > 0.5).astype(np.float32)}


@pytest.mark.parametrize("seed", range(6))
def test_a_box_grows_as_clipper_offsets_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    box = quad(*rng.uniform(100, 200, 2), rng.uniform(40, 90), rng.uniform(5, 30), rng.uniform(-90, 90))
    area, length = cv2.contourArea(box), cv2.arcLength(box, True)
    (clipped,) = offset_polygon(box, area * 1.5 / length)
    want = corners_of(cv2.minAreaRect(clipped))
    np.testing.assert_allclose(grow_box(box.reshape(-1, 1, 2), 1.5), want, atol=0.3)


def test_offsets_have_the_area_of_the_formula(rng: np.random.Generator) -> None:
    for _ in range(5):
        box = quad(150, 150, rng.uniform(30, 90), rng.uniform(20, 60), rng.uniform(-90, 90))
        area, length, d = cv2.contourArea(box), cv2.arcLength(box, True), 6.0
        (out,) = offset_polygon(box, d)
        assert cv2.contourArea(out) == pytest.approx(area + length * d + np.pi * d * d, rel=0.01)
        (inner,) = offset_polygon(box[::-1], -d)
        sides = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)[:2]
        assert cv2.contourArea(inner) == pytest.approx(np.prod(sides - 2 * d), rel=0.01)
        assert offset_polygon(box, -100) == []
    assert offset_polygon(np.array([[0, 0], [5, 5], [9, 9]]), -1) == []


def test_mean_inside_by_hand() -> None:
    image = np.arange(40, dtype=np.float32).reshape(5, 8)
    assert (
        mean_inside(image, np.array([[1, 1], [3, 1], [3, 2], [1, 2]], np.float32)) == image[1:3, 1:4].mean()
    )
    beyond = np.array([[-5, -5], [50, -5], [50, 50], [-5, 50]], np.float32)
    assert mean_inside(image, beyond) == image.mean()


@pytest.mark.parametrize("polygon", [False, True])
def test_shrunk_words_come_back_at_the_size_of_the_image(polygon: bool) -> None:
    words = [quad(80, 60, 100, 24), quad(230, 120, 90, 30, 35), quad(90, 190, 60, 40, -20)]
    shrunk = []
    for word in words:
        d = cv2.contourArea(word) * (1 - 0.4**2) / cv2.arcLength(word, True)
        shrunk += offset_polygon(word, -d)
    probability = filled((256, 320), *shrunk) * 0.9
    found = find_regions(probability, 512, 960, RegionOptions(polygon=polygon))
    assert len(found) == len(found.scores) == 3
    assert all(score == pytest.approx(0.9, abs=0.1) for score in found.scores)
    scale = np.array([3, 2], np.float32)
    for word in words:
        best = max(raster_iou(word, region / scale) for region in found.polygons)
        assert best > 0.75


def test_thresholds_and_limits_decide_what_is_a_region() -> None:
    probability = filled((128, 128), quad(40, 40, 40, 12)) * 0.55
    probability += filled((128, 128), quad(90, 90, 30, 12)) * 0.95
    probability[10, 10] = probability[10, 12] = 1.0  # specks

    def found(**options: Any) -> int:
        return len(find_regions(probability, 128, 128, RegionOptions(**options)))

    assert found() == 1
    assert found(box_threshold=0.5) == 2
    assert found(threshold=0.6, box_threshold=0.5) == 1
    assert found(min_size=14, box_threshold=0.5) == 0
    assert found(box_threshold=0.5, max_candidates=0) == 0
    assert found(min_size=0, box_threshold=0.1) == 2  # a speck does not reach two pixels even when grown
    assert len(find_regions(np.zeros((32, 32)), 32, 32)) == 0


def test_regions_stay_inside_the_image() -> None:
    probability = np.ones((64, 96), np.float32)
    (region,) = find_regions(probability, 128, 200).polygons
    np.testing.assert_array_equal(region, [[0, 0], [200, 0], [200, 128], [0, 128]])


def test_a_polygon_follows_a_bend_that_a_box_cannot() -> None:
    angles = np.linspace(np.pi, 2 * np.pi, 24)
    ring = [np.stack([160 + r * np.cos(angles), 160 + r * np.sin(angles)], 1) for r in (110, 86)]
    bend = np.concatenate([ring[0], ring[1][::-1]]).astype(np.float32)
    probability = filled((320, 320), bend)
    (curved,) = find_regions(probability, 320, 320, RegionOptions(polygon=True, unclip_ratio=0.01)).polygons
    boxes = RegionOptions(unclip_ratio=0.01, box_threshold=0.1)
    (box,) = find_regions(probability, 320, 320, boxes).polygons
    assert raster_iou(curved, bend) > 0.85
    assert raster_iou(box, bend) < 0.5
    grown = grow_polygon(bend, 2.0)
    assert grown is not None
    assert cv2.contourArea(grown) > 1.5 * cv2.contourArea(bend)


def test_polygons_without_clipper_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyclipper", None)
    probability = filled((64, 64), quad(32, 32, 40, 16))
    assert len(find_regions(probability, 64, 64)) == 1  # boxes do without
    with pytest.raises(MissingDependencyError) as caught:
        find_regions(probability, 64, 64, RegionOptions(polygon=True))
    assert "edgedeploy[text]" in caught.value.hint


@pytest.mark.parametrize("size", [("h", "w"), (320, 448), (256, 256), (320, 960)])
@pytest.mark.parametrize("image_size", [(320, 448), (500, 700), (700, 330)])
def test_words_are_found_where_they_are_at_any_size(
    size: tuple[int | str, int | str], image_size: tuple[int, int]
) -> None:
    height, width = image_size
    word = quad(width * 0.7, height * 0.8, width * 0.3, height * 0.12, 10)
    image = (filled(image_size, word)[:, :, None].repeat(3, 2) * 255).astype(np.uint8)
    result = make(size, unclip_ratio=0.01).run(words_as_bright_pixels, image)
    assert len(result) == 1
    assert raster_iou(result.polygons[0], word, size=max(image_size)) > 0.85


def test_input_sizes_are_those_of_the_released_evaluation() -> None:
    task = make(short_side=736)
    assert task.input_shape(720, 1280) == (1, 3, 736, 1312)
    assert task.input_shape(1280, 720) == (1, 3, 1312, 736)
    assert task.input_shape(736, 736) == (1, 3, 736, 736)
    assert task.input_shape(10, 10_000)[3] == 2560
    assert content_size((720, 1280), (736, 1312)) == (736, 1312)  # rounding is stretched away, not padded
    assert content_size((720, 1280), (640, 640)) == (360, 640)
    assert content_size((1, 5000), (64, 64)) == (1, 64)


def test_channels_and_padding_of_the_feed() -> None:
    image = np.full((320, 640, 3), (10, 20, 30), np.uint8)
    options = {"mean": [1.0, 2.0, 3.0], "std": [1.0, 2.0, 3.0]}
    bgr = make((320, 320), channel_order="BGR", **options).preprocess(image)["image"]
    assert bgr.shape == (1, 3, 320, 320)
    np.testing.assert_allclose(bgr[0, :, 5, 5], [29, 9, 7 / 3], atol=1e-5)
    np.testing.assert_allclose(bgr[0, :, -1, 5], [-1, -1, -1], atol=1e-6)  # black pixels, not zeros after
    rgb = make((320, 320), **options).preprocess(image)["image"]
    np.testing.assert_allclose(rgb[0, :, 5, 5], [9, 9, 9], atol=1e-5)
    with pytest.raises(UsageError, match="channel_order 'YUV'"):
        make(channel_order="YUV")


def test_drawing_outlines_words_and_leaves_the_image(rng: np.random.Generator) -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    before = image.copy()
    result = find_regions(filled((200, 300), quad(150, 100, 120, 40)), 200, 300)
    drawn = make().draw(image, result)
    np.testing.assert_array_equal(image, before)
    changed = (drawn != image).any(2)
    assert 0 < changed.mean() < 0.2
    x, y = result.polygons[0][0].astype(int)
    assert changed[y, x]
    assert not changed[100, 150]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_outputs_that_are_no_map_are_refused(dtype: type) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert len(make().postprocess({"probability": np.zeros((1, 1, 64, 64), dtype)}, image)) == 0
    assert len(make().postprocess({"probability": np.zeros((1, 64, 64, 1), dtype)}, image)) == 0
    with pytest.raises(UsageError, match="not one map"):
        make().postprocess({"probability": np.zeros((1, 2, 64, 64), dtype)}, image)


# ICDAR's protocol


def square(x: float, y: float, side: float = 10, wide: float = 0) -> Array:
    wide = wide or side
    return np.array([[x, y], [x + wide, y], [x + wide, y + side], [x, y + side]], np.float32)


def score(truth: list[tuple[Array, bool]], detected: list[Array]) -> tuple[int, int, int]:
    counts = TextScore()
    counts.add([Word(polygon, ignored) for polygon, ignored in truth], detected)
    return counts.hits, counts.words, counts.detections


def test_protocol_case_by_case() -> None:
    word, other = square(0, 0), square(100, 0)
    assert score([(word, False), (other, False)], [word]) == (1, 2, 1)
    assert score([(word, False)], [word, word]) == (1, 1, 2)  # a second detection of a word is a false one
    assert score([(word, False), (word, False)], [word]) == (1, 2, 1)  # nor does one serve two words
    assert score([(word, False)], [square(0, 0, wide=20)]) == (0, 1, 1)  # exactly half is not beyond half
    assert score([(word, False)], [square(0, 0, wide=19.9)]) == (1, 1, 1)
    assert score([(word, True)], [word]) == (0, 0, 0)
    assert score([(square(0, 0, wide=100), True)], [square(5, 2, 5)]) == (0, 0, 0)  # inside an ignored one
    assert score([(word, True)], [square(5, 0)]) == (0, 0, 1)  # half on it is not mostly
    crossed = word[[0, 2, 1, 3]]
    assert score([(crossed, False), (other, False)], [crossed, other]) == (1, 1, 1)
    assert score([], []) == (0, 0, 0)


def test_overlap_against_counting_pixels(rng: np.random.Generator) -> None:
    for _ in range(12):
        one, two = (
            quad(*rng.uniform(40, 60, 2), *rng.uniform(15, 60, 2), rng.uniform(-90, 90)) for _ in range(2)
        )
        counted = raster_iou(one, two, 120)
        for margin, hits in ((-0.02, 1), (0.02, 0)):
            counts = TextScore(overlap=counted + margin)
            counts.add([Word(one, False)], [two])
            assert counts.hits == hits


def test_figures_of_counts() -> None:
    counts = TextScore()
    assert (counts.precision, counts.recall, counts.f_measure) == (0, 0, 0)
    counts.hits, counts.words, counts.detections = 3, 4, 6
    assert (counts.precision, counts.recall) == (0.5, 0.75)
    assert counts.f_measure == pytest.approx(0.6)


def test_truth_files_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_bytes("\ufeff0,0,10,0,10,5,0,5,a, b,c\r\n\n1,1,2,1,2,2,1,2,###\n0,0,9,0,9,9,0,9\n".encode())
    words = read_words(path)
    assert [word.ignored for word in words] == [False, True, False]
    np.testing.assert_array_equal(words[0].polygon, [[0, 0], [10, 0], [10, 5], [0, 5]])
    path.write_text("0,0,5,0,10,0,10,5,5,6,0,5,###\n0,0,9,0,9,9,0,9,7\n")
    assert [len(word.polygon) for word in read_words(path, polygon=True)] == [6, 4]
    assert [word.ignored for word in read_words(path, polygon=True)] == [True, False]
    for bad in ("1,2,3,4,5,6,7", "a,0,1,0,1,1,0,1,text", "nan,0,1,0,1,1,0,1,text"):
        path.write_text(f"0,0,9,0,9,9,0,9,x\n{bad}\n")
        with pytest.raises(UsageError, match="line 2"):
            read_words(path)


def write_set(folder: Path, count: int = 3) -> list[Array]:
    (folder / "val_images").mkdir(parents=True)
    (folder / "val_gts").mkdir()
    words = [square(40, 40, 30, 100), square(200, 150, 30, 80)]
    for index in range(count):
        image = (filled((320, 448), *words)[:, :, None].repeat(3, 2) * 255).astype(np.uint8)
        write_image(folder / f"val_images/{index}.png", image)
        lines = [",".join(str(int(v)) for v in word.ravel()) + ",word" for word in words]
        (folder / f"val_gts/gt_{index}.txt").write_text("\n".join(lines))
    return words


@pytest.mark.parametrize("below", ["", "val_images"])
def test_score_of_a_folder(tmp_path: Path, below: str) -> None:
    write_set(tmp_path)
    scores = make(unclip_ratio=0.01).evaluate(words_as_bright_pixels, tmp_path / below, limit=2)
    assert scores == {"f_measure": 1, "precision": 1, "recall": 1, "images": 2}
    scores = make(unclip_ratio=4).evaluate(words_as_bright_pixels, tmp_path / below)
    assert scores["f_measure"] == 0
    (tmp_path / "val_gts/gt_1.txt").unlink()
    with pytest.raises(UsageError, match=r"gt_1\.txt"):
        truth_files(tmp_path)
    with pytest.raises(UsageError, match="no pair"):
        truth_files(tmp_path / "val_gts")


def write_total_text(folder: Path, split: str, words: list[tuple[Array, str]]) -> None:
    lines = []
    for word, text in words:
        x, y = (" ".join(str(int(value)) for value in axis) for axis in word.T)
        lines.append(f"x: [[{x}]], y: [[{y}]], ornt: [u'h'], transcriptions: [u'{text}']")
    truths = folder / "Groundtruth" / "Polygon" / split
    truths.mkdir(parents=True, exist_ok=True)
    (truths / "poly_gt_img1.txt").write_text("\n".join(lines))


def write_picture(path: Path, *words: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, (filled((320, 448), *words)[:, :, None].repeat(3, 2) * 255).astype(np.uint8))


def test_total_text_and_td500_are_recognized_by_what_lies_in_the_folder(tmp_path: Path) -> None:
    """Two words are seen. Of four in the truth one is hit, one seen but ignored, two are missed."""
    task = make(unclip_ratio=0.01)
    seen = [square(40, 40, 30, 100), square(200, 150, 30, 80)]
    unseen = [square(20, 250, 30, 100), square(300, 250, 30, 100)]
    expected = {"precision": 1, "recall": pytest.approx(1 / 3), "f_measure": 0.5, "images": 1}
    total = tmp_path / "total"
    texts = ["CAFE", "#", "BAR", "INN"]
    write_picture(total / "Images" / "Test" / "img1.jpg", *seen)
    write_total_text(total, "Test", list(zip([*seen, *unseen], texts, strict=True)))
    write_picture(total / "Images" / "Train" / "img1.jpg", *seen)
    write_total_text(total, "Train", list(zip(seen, texts, strict=False)))
    for named in ("", "Images/Test"):
        assert task.evaluate(words_as_bright_pixels, total / named) == expected
    assert task.evaluate(words_as_bright_pixels, total / "Images" / "Train")["recall"] == 1
    td500 = tmp_path / "td500"
    boxes = [(*word[0], *(word[2] - word[0])) for word in (*seen, *unseen)]
    lines = [f"{i} {int(i == 1)} {x} {y} {w} {h} 0" for i, (x, y, w, h) in enumerate(boxes)]
    for split, count in (("test", 4), ("train", 1)):
        write_picture(td500 / split / "IMG_1.JPG", *seen)
        (td500 / split / "IMG_1.gt").write_text("\n".join(lines[:count]))
    for named in ("", "test"):
        assert task.evaluate(words_as_bright_pixels, td500 / named) == expected
    assert task.evaluate(words_as_bright_pixels, td500 / "train")["recall"] == 1
    (td500 / "test" / "IMG_1.gt").rename(td500 / "test" / "IMG_2.gt")
    with pytest.raises(UsageError, match=r"1 of 1 truths are missing, first .*IMG_1\.gt"):
        task.evaluate(words_as_bright_pixels, td500)


@pytest.mark.parametrize("name", ["text_icdar13", "text_icdar15", "text_mtwi", "text_docs"])
def test_a_perfect_reader_of_real_sets_scores_one(shared: Path, name: str) -> None:
    counts = TextScore()
    pairs = truth_files(shared / "data" / name)[:10]
    for image, truth in pairs:
        assert image.is_file()
        words = read_words(truth)
        counts.add(words, [word.polygon for word in words if not word.ignored])
    assert counts.words > 20
    # Words that lie mostly on an ignored one, or overlap each other, may be lost even to a perfect reader.
    assert counts.recall > 0.98
    assert counts.precision > 0.98


def test_a_published_detector_finds_the_lines_of_receipts(shared: Path) -> None:
    found = Artifact.load(shared / "data/models/ppocrv3_det_DBNet.onnx")
    options = {
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "channel_order": "BGR",
        "short_side": 640,
        "box_threshold": 0.5,
    }
    artifact = found.model_copy(update={"task": TaskSpec(name="text-detection", options=options)})
    with SessionPool(artifact, threads=1) as session:
        scores = task_for(artifact).evaluate(session, shared / "data/text_docs", limit=2)
    assert scores["precision"] > 0.8
    assert scores["recall"] > 0.8
