"""Face verification: embeddings, the k-fold protocol, ROC area and equal error against brute force, pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedeploy.core.errors import UsageError
from edgedeploy.vision.images import read_image, write_image
from edgedeploy.vision.verification import (
    THRESHOLDS,
    area_under_curve,
    best_threshold,
    equal_error_rate,
    k_fold_accuracy,
    read_pairs,
)
from tests.support.tasks import task_on_images

Array = np.ndarray[Any, Any]


def make(size: int = 8, **options: Any) -> Any:
    return task_on_images("face-embedding", {"embedding": (1, 4)}, (size, size), **options)


def means(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """A network that knows people by their color."""
    color = feeds["image"].mean((2, 3))
    return {"embedding": np.concatenate([color, np.full((1, 1), 0.1, np.float32)], 1)}


def test_embedding_is_of_length_one() -> None:
    image = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    embedding = make().run(means, image)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, np.array([1, -1, -1, 0.1]) / np.sqrt(3.01), rtol=1e-5)
    for bad in (0.0, np.nan):
        with pytest.raises(UsageError, match="zero or not finite"):
            make().postprocess({"embedding": np.full((1, 4), bad)}, image)


def test_the_center_square_in_the_order_asked_for() -> None:
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 2:10] = (255, 0, 51)
    for order, want in (("rgb", [1, -1, -0.6]), ("bgr", [-0.6, -1, 1])):
        feed = make(channels=order).preprocess(image)["image"]
        assert feed.shape == (1, 3, 8, 8)
        np.testing.assert_allclose(feed[0].mean((1, 2)), want, atol=1e-6)
    with pytest.raises(UsageError, match="channels are 'gbr'"):
        make(channels="gbr").preprocess(image)


def scores(rng: np.random.Generator, count: int = 60) -> tuple[Array, Array]:
    same = rng.random(count) < 0.5
    return np.round(np.where(same, rng.normal(1.0, 0.5, count), rng.normal(1.6, 0.5, count)), 1).clip(0), same


def test_area_is_the_chance_of_being_nearer(rng: np.random.Generator) -> None:
    distance, same = scores(rng)
    wins = [
        1.0 if near < far else 0.5 if near == far else 0.0
        for near in distance[same]
        for far in distance[~same]
    ]
    assert area_under_curve(distance, same) == pytest.approx(np.mean(wins))
    assert area_under_curve(-distance, same) == pytest.approx(1 - np.mean(wins))
    assert np.isnan(area_under_curve(distance, np.ones(60, bool)))


def test_equal_error_rate_of_known_distributions() -> None:
    steps = np.arange(1000) / 1000
    distance, same = np.concatenate([steps, steps + 0.6]), np.repeat([True, False], 1000)
    assert equal_error_rate(distance, same) == pytest.approx(0.2, abs=2e-3)
    assert equal_error_rate(np.array([0.1, 0.2, 0.8, 0.9]), np.array([1, 1, 0, 0])) == 0
    assert equal_error_rate(np.array([0.8, 0.9, 0.1, 0.2]), np.array([1, 1, 0, 0])) == 1


def test_best_threshold_is_the_middle_of_the_best() -> None:
    distance = np.array([0.2, 0.5, 1.0, 0.9, 1.5])
    assert best_threshold(distance, np.array([1, 1, 0, 0, 0])) == pytest.approx(0.7, abs=2e-3)


def test_k_fold_accuracy_against_loops(rng: np.random.Generator) -> None:
    people = rng.normal(3, 1, (8, 5))
    who = rng.integers(0, 8, (2, 63))
    who[1, ::2] = who[0, ::2]
    first, second = (
        v / np.linalg.norm(v, axis=1)[:, None] for v in people[who] + rng.normal(0, 0.8, (2, 63, 5))
    )
    same = who[0] == who[1]
    results = []
    for part in np.array_split(np.arange(63), 10):
        rest = [i for i in range(63) if i not in part]
        center = sum(first[i] + second[i] for i in rest) / (2 * len(rest))
        cosines = []
        for a, b in zip(first - center, second - center, strict=True):
            cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        distance = 2 - 2 * np.array(cosines)
        right = [np.mean((distance[rest] < t) == same[rest]) for t in THRESHOLDS]
        best = np.mean([t for t, r in zip(THRESHOLDS, right, strict=True) if r == max(right)])
        results.append(np.mean([(distance[i] < best) == same[i] for i in part]))
    accuracy, deviation = k_fold_accuracy(first, second, same, 10)
    assert accuracy == pytest.approx(np.mean(results))
    assert deviation == pytest.approx(np.std(results))
    assert 0.6 < accuracy < 1


def write_people(folder: Path, people: int = 4, images: int = 4) -> None:
    generator = np.random.default_rng(1)
    for person in range(people):
        (folder / f"p{person}").mkdir(parents=True)
        color = generator.integers(40, 215, 3)
        for index in range(images):
            noisy = color + generator.integers(-10, 11, (9, 9, 3))
            write_image(folder / f"p{person}/{index}.png", noisy.astype(np.uint8))


def test_pairs_of_folders_are_balanced_and_the_same_every_time(tmp_path: Path) -> None:
    write_people(tmp_path)
    pairs = read_pairs(tmp_path)
    assert pairs == read_pairs(tmp_path)
    assert len(pairs) == 2 * 4 * 6
    assert [match for _, _, match in pairs[:4]] == [True, False, True, False]
    assert all((a.parent == b.parent) == match and a != b for a, b, match in pairs)
    assert len(read_pairs(tmp_path, 10)) == 10
    with pytest.raises(UsageError, match="no folders of people"):
        read_pairs(tmp_path / "p0")


def test_evaluation_of_people(tmp_path: Path) -> None:
    write_people(tmp_path)
    done: list[int] = []
    found = make().evaluate(means, tmp_path, progress=lambda n, _: done.append(n))
    assert found["accuracy"] > 0.95
    assert found["auc"] > 0.99
    assert done == list(range(1, 17))
    blind = make().evaluate(lambda _: {"embedding": np.ones((1, 4), np.float32)}, tmp_path)
    assert blind["accuracy"] < 0.6
    assert blind["auc"] == 0.5
    with pytest.raises(UsageError, match="too few"):
        make().evaluate(means, tmp_path, limit=10)


def test_listed_pairs(tmp_path: Path) -> None:
    write_people(tmp_path)
    listing = tmp_path / "pairs.txt"
    listing.write_text("p0/0.png p0/1.png 1\n\np0/0.png p1/1.png 0\n")
    assert read_pairs(tmp_path) == [
        (tmp_path / "p0/0.png", tmp_path / "p0/1.png", True),
        (tmp_path / "p0/0.png", tmp_path / "p1/1.png", False),
    ]
    for line, message in (("p0/0.png p0/1.png", "line 1: not PATH"), ("../a.png p0/1.png 1", "leads out")):
        listing.write_text(line)
        with pytest.raises(UsageError, match=message):
            read_pairs(tmp_path)


def test_pairs_listed_as_labeled_faces_in_the_wild_has_them(tmp_path: Path) -> None:
    listing = tmp_path / "pairs.txt"
    listing.write_text("10\t300\nAbel_Ferrara\t1\t4\nAbel_Ferrara\t2\tZico\t13\n")
    assert read_pairs(tmp_path) == [
        (
            tmp_path / "Abel_Ferrara/Abel_Ferrara_0001.jpg",
            tmp_path / "Abel_Ferrara/Abel_Ferrara_0004.jpg",
            True,
        ),
        (tmp_path / "Abel_Ferrara/Abel_Ferrara_0002.jpg", tmp_path / "Zico/Zico_0013.jpg", False),
    ]
    listing.write_text("10 300\nAbel_Ferrara 1 x\n")
    with pytest.raises(UsageError, match="line 2: not NAME 1 4 or NAME 1 OTHER 2"):
        read_pairs(tmp_path)
    listing.write_text("300\n../x 1 4\n")
    with pytest.raises(UsageError, match="leads out"):
        read_pairs(tmp_path)


def test_drawing_adds_a_strip() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    drawn = make().draw(image, np.array([1, -1, 0, 0.5], np.float32))
    assert drawn.shape == (52, 40, 3)
    assert drawn[45, 5, 0] > drawn[45, 5, 2]
    assert drawn[45, 15, 2] > drawn[45, 15, 0]
    assert (drawn[45, 25] == 255).all()


def test_real_faces_are_told_apart_by_their_pixels_better_than_by_chance(shared: Path) -> None:
    folder = shared / "data/faces_orl"
    if not folder.is_dir():
        pytest.skip("no ORL faces")

    def pixels(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"embedding": feeds["image"].mean(1).reshape(1, -1)}

    found = make(16).evaluate(pixels, folder, limit=400)
    assert found["pairs"] == 400
    assert 0.75 < found["accuracy"] < 1
    assert found["auc"] > 0.8
    assert read_image(folder / "s1/1.png").shape == (112, 92, 3)
