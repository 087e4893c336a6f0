"""Text to train on: data sets as their authors lay them out, rendered words, views of photographs."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgedeploy.core.errors import RecipeError, UnknownNameError, UsageError
from edgedeploy.models import create_model
from edgedeploy.models.checkpoint import load_checkpoint
from edgedeploy.models.state_file import write_state
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.runs import deployable
from edgedeploy.models.training.text_augment import random_view
from edgedeploy.models.training.text_render import Style, draw_word, find_fonts, random_text, render
from edgedeploy.vision.icdar import Word
from edgedeploy.vision.text_data import find_texts
from tests.support.training_runs import draw_signs, signs


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 32)).save(path)


def test_total_text_is_read_as_its_authors_lay_it_out(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "Train" / "img11.jpg")
    with pytest.raises(UsageError, match=r"1 of 1 truths are missing, first .*poly_gt_img11.txt"):
        find_texts(tmp_path, "total-text")
    truth = tmp_path / "Groundtruth" / "Polygon" / "Train" / "poly_gt_img11.txt"
    line = "x: [[1 9  9]], y: [[2 2 8]], ornt: [u'c'], transcriptions: [u'{}']\n"
    write(truth, line.format("CAFE") + line.format("#"))
    ((image, words),) = find_texts(tmp_path, "total-text")
    assert image.name == "img11.jpg"
    np.testing.assert_array_equal(words[0].polygon, [[1, 2], [9, 2], [9, 8]])
    assert [word.ignored for word in words] == [False, True]
    write(truth, "x: [[1 9 9]], y: [[2 2]]\n")
    with pytest.raises(UsageError, match=r"line 1: .* is not a word"):
        find_texts(tmp_path, "total-text")
    with pytest.raises(UsageError, match="Test is not a folder"):
        find_texts(tmp_path, "total-text", "test")


def test_coordinates_of_total_text_may_go_on_in_the_next_line(tmp_path: Path) -> None:
    """Long words were printed by numpy, which wraps."""
    picture(tmp_path / "Images" / "Train" / "img11.jpg")
    truth = tmp_path / "Groundtruth" / "Polygon" / "Train" / "poly_gt_img11.txt"
    end = "ornt: [u'c'], transcriptions: [u'CAFE']\n"
    write(truth, f"x: [[1 9\n  9]], y: [[2\n 2 8]], {end}x: [[1 5 5]], y: [[2 2 8]], {end}")
    ((_, words),) = find_texts(tmp_path, "total-text")
    np.testing.assert_array_equal(words[0].polygon, [[1, 2], [9, 2], [9, 8]])
    np.testing.assert_array_equal(words[1].polygon, [[1, 2], [5, 2], [5, 8]])
    whole = f"x: [[1 5 5]], y: [[2 2 8]], {end}"
    for text, line in ((f"{whole}x: [[1 9\n", 2), (f"CAFE\n{whole}", 1)):
        write(truth, text)
        with pytest.raises(UsageError, match=rf"line {line}: .* is not a word"):
            find_texts(tmp_path, "total-text")


def test_td500_boxes_are_turned_about_their_center(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "IMG_1.JPG")
    write(tmp_path / "train" / "IMG_1.gt", f"0 0 10 20 30 8 0\n1 1 10 20 30 8 {math.pi / 2}\n")
    ((_, words),) = find_texts(tmp_path, "td500")
    np.testing.assert_allclose(words[0].polygon, [[10, 20], [40, 20], [40, 28], [10, 28]], atol=1e-4)
    np.testing.assert_allclose(words[1].polygon, [[29, 9], [29, 39], [21, 39], [21, 9]], atol=1e-4)
    assert [word.ignored for word in words] == [False, True]
    write(tmp_path / "train" / "IMG_1.gt", "0 0 10\n")
    with pytest.raises(UsageError, match="line 1: '0 0 10' is not a word"):
        find_texts(tmp_path, "td500")


def test_layouts_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="icdar2013"):
        find_texts(tmp_path, "icdar2013")


def test_real_photographs_are_found_whole(shared: Path) -> None:
    found = find_texts(shared / "data" / "text_icdar13", "icdar2015")
    assert len(found) == 148
    assert sum(len(words) for _, words in found) == 655


def test_words_stand_where_they_are_said_to(rng: np.random.Generator) -> None:
    """Outside the quadrilaterals a flat ground stays flat; inside each, ink stands out."""
    fonts = find_fonts()
    assert len(fonts) >= 5
    ground, seen = np.full((160, 240, 3), 128, np.uint8), 0
    for _ in range(6):
        image, words = render(ground, fonts, rng, Style(words=(2, 4), height=(16.0, 40.0)))
        taken = np.zeros(ground.shape[:2], np.uint8)
        for word in words:
            inside = np.zeros_like(taken)
            cv2.fillPoly(inside, [np.rint(word.polygon).astype(np.int32)], [1])
            assert not (inside & taken).any()
            assert np.abs(image[inside == 1].astype(int) - 128).max() > 25
            taken |= inside
            seen += 1
        around = cv2.dilate(taken, np.ones((9, 9), np.uint8))
        assert np.abs(image[around == 0].astype(int) - 128).mean() < 8  # noise alone
    assert seen > 8


def test_a_word_fills_its_frame() -> None:
    mask = draw_word("Hxg", find_fonts()[0])
    rows, columns = np.flatnonzero(mask.max(1)), np.flatnonzero(mask.max(0))
    margins = rows[0], columns[0], mask.shape[0] - 1 - rows[-1], mask.shape[1] - 1 - columns[-1]
    assert len({int(margin) for margin in margins}) == 1
    assert 1 <= margins[0] <= mask.shape[0] / 10


def test_rendering_follows_from_the_generator() -> None:
    ground, fonts = np.full((96, 96, 3), 90, np.uint8), find_fonts()
    one, other = (render(ground, fonts, np.random.default_rng(3))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, render(ground, fonts, np.random.default_rng(4))[0])
    assert {random_text(np.random.default_rng(seed)) for seed in range(50)} != {""}


def test_a_folder_without_fonts_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no fonts"):
        find_fonts(str(tmp_path))


def test_views_move_words_with_the_picture(rng: np.random.Generator) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    corners = np.array([[60, 50], [110, 50], [110, 70], [60, 70]], np.float32)
    cv2.fillPoly(image, [corners.astype(np.int32)], [255, 255, 255])
    cut = 0
    for _ in range(40):
        view, words = random_view(image, [Word(corners, False)], (64, 96), rng, scale=(0.5, 3.0))
        assert view.shape == (64, 96, 3)
        drawn = np.zeros(view.shape[:2], np.uint8)
        for word in words:
            cv2.fillPoly(drawn, [np.rint(word.polygon).astype(np.int32)], [255])
            cut += word.ignored
        wrong = np.abs(view[..., 0].astype(int) - drawn) > 128
        assert wrong.mean() < 0.05  # edges are a pixel or so wide
        assert words
        if not words[0].ignored:  # a word that counts is whole, but for a sliver
            assert (drawn > 0).sum() >= 0.93 * cv2.contourArea(words[0].polygon)
    assert cut > 0


def test_views_waste_nothing_on_what_lies_outside(rng: np.random.Generator) -> None:
    image = np.full((120, 160, 3), 255, np.uint8)
    corner = Word(np.array([[0, 0], [20, 0], [20, 10], [0, 10]], np.float32), False)
    for _ in range(20):
        view, _ = random_view(image, [corner], (64, 96), rng, scale=(0.7, 3.0), angle=0)
        assert view.min() > 0
        small, _ = random_view(image, [corner], (64, 96), rng, scale=(0.4, 0.4), angle=0)
        assert (small[..., 0] > 127).sum() == pytest.approx(48 * 64, rel=0.05)  # all of the image is seen


def test_views_are_scaled_so_that_a_wide_word_is_seen_whole(rng: np.random.Generator) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    wide = Word(np.array([[5, 50], [155, 50], [155, 70], [5, 70]], np.float32), False)
    seen = [random_view(image, [wide], (64, 96), rng, scale=(0.5, 3.0), angle=0)[1] for _ in range(40)]
    assert sum(not words[0].ignored for words in seen) >= 30


def test_recipes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    data = draw_signs(tmp_path)
    for settings, message in (
        ({"synthetic": 0.0, "folders": ()}, "no photographs to train on"),
        ({"backgrounds": ()}, "nothing to render words on"),
    ):
        with pytest.raises(UsageError, match=message):
            make_experiment(signs(settings), data)
    with pytest.raises(RecipeError, match="threshold map"):
        make_experiment(signs(options={}), data)
    with pytest.raises(RecipeError, match="not of whole 32 pixels"):
        make_experiment(signs({"crop": (60, 96)}), data)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    experiment = make_experiment(signs({"synthetic": 0.0}), draw_signs(tmp_path))
    held_out = {path for path, _ in experiment.val}  # type: ignore[attr-defined]
    trained = {path for path, _ in experiment.train}  # type: ignore[attr-defined]
    assert len(held_out) == 2
    assert len(trained) == 3
    assert not held_out & trained


def test_weights_know_the_size_that_they_were_trained_for(tmp_path: Path) -> None:
    experiment = make_experiment(signs(task={"short_side": 64}), draw_signs(tmp_path))
    assert experiment.task.input_shape(50, 100) == (1, 3, 64, 128)  # type: ignore[attr-defined]
    file = tmp_path / "signs.safetensors"
    write_state(file, *deployable(create_model("dbnet_micro", augment=True), experiment))
    assert load_checkpoint("dbnet_micro", file).info.task.options["short_side"] == 64
    with pytest.raises(UsageError, match="no option short_sied"):
        make_experiment(signs(task={"short_sied": 64}), tmp_path)
