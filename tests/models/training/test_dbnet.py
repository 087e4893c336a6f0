"""DBNet's targets and loss: against their definitions, and a small network that learns with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from edgedeploy.models import create_model
from edgedeploy.models.training.dbnet_labels import (
    HIGH,
    LOW,
    TextMaps,
    distance_to_segment,
    make_maps,
    short_side,
    shrink_distance,
)
from edgedeploy.models.training.dbnet_loss import DBLoss, balanced_cross_entropy, dice, masked_l1
from edgedeploy.vision.icdar import TextScore, Word, read_words, truth_files
from edgedeploy.vision.images import read_image
from edgedeploy.vision.text_regions import RegionOptions, corners_of, find_regions

Array = np.ndarray[Any, Any]


def word(cx: float, cy: float, w: float, h: float, degrees: float = 0, ignored: bool = False) -> Word:
    return Word(corners_of(((cx, cy), (w, h), degrees)), ignored)


def test_shrink_distance_of_a_rectangle() -> None:
    assert shrink_distance(word(50, 50, 40, 10).polygon) == pytest.approx(40 * 10 * (1 - 0.16) / 100)
    assert shrink_distance(np.array([[0, 0], [1, 1], [2, 2]])) == 0
    assert shrink_distance(np.zeros((4, 2))) == 0


def test_maps_of_one_upright_word_by_hand() -> None:
    maps = make_maps([word(60, 40, 80, 20)], 96, 128)  # x 20..100, y 30..50, D = 6.72
    d = 80 * 20 * 0.84 / 200
    rows, columns = np.nonzero(maps.text)
    assert (columns.min(), columns.max()) == (round(20 + d), round(100 - d))
    assert (rows.min(), rows.max()) == (round(30 + d), round(50 - d))
    assert maps.text_mask.min() == 1
    rows, columns = np.nonzero(maps.border_mask)
    assert (columns.min(), columns.max()) == (round(20 - d), round(100 + d))
    assert (rows.min(), rows.max()) == (round(30 - d), round(50 + d))
    assert maps.border[30, 60] == pytest.approx(HIGH)
    assert maps.border[33, 60] == pytest.approx(LOW + 0.4 * (1 - 3 / d))
    assert maps.border[27, 60] == pytest.approx(LOW + 0.4 * (1 - 3 / d))
    assert maps.border[40, 60] == pytest.approx(LOW)
    assert maps.border[0, 0] == pytest.approx(LOW)
    assert maps.border_mask[40, 60] == 1  # the inside of a word belongs to the border's mask


def test_border_is_the_distance_to_the_outline(rng: np.random.Generator) -> None:
    polygon = word(70, 60, 70, 30, 25).polygon.astype(np.float64)
    maps, d = make_maps([Word(polygon.astype(np.float32), False)], 128, 144), shrink_distance(polygon)
    for y, x in rng.integers(20, 110, (60, 2)):
        signed = cv2.pointPolygonTest(polygon.astype(np.float32), (float(x), float(y)), True)
        want = LOW + (HIGH - LOW) * max(0.0, 1 - abs(signed) / d)
        if maps.border_mask[y, x]:
            assert maps.border[y, x] == pytest.approx(want, abs=1e-3)
    end = distance_to_segment(np.array([5.0]), np.array([3.0]), np.array([0, 0]), np.array([2, -1]))
    np.testing.assert_allclose(end, [5.0])
    np.testing.assert_allclose(
        distance_to_segment(np.array([3.0]), np.array([4.0]), np.zeros(2), np.zeros(2)), 5
    )


def test_neighbors_keep_the_higher_border() -> None:
    one, two = word(40, 40, 50, 20), word(40, 62, 50, 20)
    both = make_maps([one, two], 96, 96).border
    apart = [make_maps([w], 96, 96).border for w in (one, two)]
    np.testing.assert_allclose(both, np.maximum(*apart))


def test_what_cannot_be_learned_is_masked() -> None:
    ignored, small, whole = word(30, 30, 40, 20, ignored=True), word(90, 30, 40, 6), word(60, 70, 40, 20)
    maps = make_maps([ignored, small, whole], 96, 128)
    alone = make_maps([whole], 96, 128)
    for name in ("text", "border", "border_mask"):
        np.testing.assert_array_equal(getattr(maps, name), getattr(alone, name))
    assert maps.text_mask[30, 30] == maps.text_mask[30, 90] == 0
    assert maps.text_mask[70, 60] == 1
    assert maps.text_mask.sum() == maps.text_mask.size - 41 * 21 - 41 * 7
    assert short_side(small.polygon) == pytest.approx(6)
    assert short_side(np.array([[0, 0], [9, 0], [12, 3], [9, 5], [0, 5]])) == 5


def test_words_beyond_the_edge_are_cut_there() -> None:
    maps = make_maps([word(0, 20, 60, 24)], 64, 64)
    assert maps.text.any()
    assert maps.border.max() <= HIGH + 1e-6
    assert make_maps([word(300, 300, 50, 20)], 64, 64).text.sum() == 0


def test_targets_read_back_are_the_words_of_real_photographs(shared: Path) -> None:
    counts = TextScore()
    for image, truth in truth_files(shared / "data/text_icdar13")[:5]:
        height, width = read_image(image).shape[:2]
        words = read_words(truth)
        found = find_regions(make_maps(words, height, width).text, height, width)
        counts.add([Word(w.polygon, w.ignored or short_side(w.polygon) < 12) for w in words], found.polygons)
    assert counts.words > 20
    assert counts.precision > 0.9
    assert counts.recall > 0.9


def test_only_the_hardest_ground_pixels_count() -> None:
    p = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.2, 0.1, 0.99]).view(1, 1, 1, 7)
    target = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).view_as(p)
    mask = torch.tensor([1.0, 1, 1, 1, 1, 1, 0]).view_as(p)  # the last would be the hardest
    want = -(np.log(0.9) + np.log(1 - 0.8) + np.log(1 - 0.7) + np.log(1 - 0.6)) / 4
    assert balanced_cross_entropy(p, target, mask).item() == pytest.approx(want, rel=1e-5)
    assert balanced_cross_entropy(p, target, mask, negatives=1).item() == pytest.approx(
        -(np.log(0.9) + np.log(0.2)) / 2, rel=1e-5
    )
    assert balanced_cross_entropy(p, torch.zeros_like(p), mask).item() == 0  # no text: no ground either


def test_the_batch_shares_its_hard_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2, 1, 4, 5, generator=generator)
    target = torch.zeros(2, 1, 4, 5)
    target[0, 0, 0] = 1
    whole = balanced_cross_entropy(p, target, torch.ones_like(p))
    ground = -torch.log(1 - p)[target == 0]
    hard = ground.sort(descending=True).values[:15]
    want = (-torch.log(p[target == 1]).sum() + hard.sum()) / 20
    torch.testing.assert_close(whole, want)


def test_dice_and_l1_by_hand() -> None:
    p = torch.tensor([0.5, 1.0, 0.25, 1.0]).view(1, 1, 2, 2)
    target = torch.tensor([1.0, 1, 0, 0]).view_as(p)
    mask = torch.tensor([1.0, 1, 1, 0]).view_as(p)
    assert dice(p, target, mask).item() == pytest.approx(1 - 2 * 1.5 / (1.75 + 2), rel=1e-5)
    assert masked_l1(p, target, mask).item() == pytest.approx((0.5 + 0 + 0.25) / 3, rel=1e-5)
    assert masked_l1(p, target, mask * 0).item() == 0
    parts = balanced_cross_entropy(p, target, mask), dice(p, target, mask), masked_l1(p, target, mask)
    total = DBLoss()((p, p, p), target, mask, target, mask)
    torch.testing.assert_close(total, 5 * parts[0] + parts[1] + 10 * parts[2])


def batch_of(maps: TextMaps) -> list[Tensor]:
    return [
        torch.from_numpy(m)[None, None] for m in (maps.text, maps.text_mask, maps.border, maps.border_mask)
    ]


def test_the_micro_network_learns_where_the_words_of_a_picture_are() -> None:
    torch.manual_seed(0)
    words = [word(40, 30, 60, 20), word(90, 80, 60, 24), word(35, 100, 44, 18)]
    picture = np.full((128, 128), 0.2, np.float32)
    for each in words:
        cv2.fillPoly(picture, [np.rint(each.polygon).astype(np.int32)], [0.9])
    x = torch.from_numpy(picture)[None, None].expand(2, 3, -1, -1).contiguous()
    targets = [t.expand(2, -1, -1, -1) for t in batch_of(make_maps(words, 128, 128))]
    model, loss = create_model("dbnet_micro", augment=True).train(), DBLoss()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    values = []
    for _ in range(80):
        value = loss(model(x), *targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.3 * values[0]
    with torch.no_grad():
        probability = model(x)[0][0, 0].numpy()
    counts = TextScore()
    counts.add(words, find_regions(probability, 128, 128, RegionOptions(box_threshold=0.3)).polygons)
    assert counts.f_measure == 1
