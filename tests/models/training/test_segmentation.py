"""Segmentation trainings: data sets as laid out by their authors, windows, hard pixels, learning."""

from __future__ import annotations

import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models import create_model
from edgedeploy.models.labels import CITYSCAPES
from edgedeploy.models.training.augment import color_jitter, random_window
from edgedeploy.models.training.experiment import distillation_loss, make_experiment
from edgedeploy.models.training.experiments.segmentation import (
    SegmentationLoss,
    SegmentationSettings,
    hard_cross_entropy,
    median_frequency,
)
from edgedeploy.models.training.loop import Every, Training
from edgedeploy.models.training.measure import measure
from edgedeploy.models.training.sheets import fit
from edgedeploy.vision.images import read_image, resize_image
from edgedeploy.vision.segmentation_data import Layout, find_samples, layout_of
from tests.support.training_runs import draw_streets, streets


@pytest.mark.slow
def test_a_network_learns_streets(tmp_path: Path) -> None:
    data = draw_streets(tmp_path / "data", count=4)
    recipe = streets(
        {"scale": (1.0, 1.0)}, steps=40, batch=4, optimizer={"name": "adamw", "learning_rate": 3e-3}
    )
    first, *_, last = Training(recipe, data, tmp_path / "x.ckpt", Every(10, 10)).run()
    assert last.losses["main"] < 0.5 * first.losses["main"]
    assert last.metrics["pixel_accuracy"] > 0.7
    assert last.metrics["miou"] > first.metrics["miou"]


def test_examples_depend_on_seed_step_and_position_alone(tmp_path: Path) -> None:
    data = draw_streets(tmp_path)
    one, two = (make_experiment(streets({"jitter": 0.2}), data) for _ in range(2))
    both, second = one.batch(5, [0, 1]), two.batch(5, [1])
    for whole, part in zip(both, second, strict=True):
        assert torch.equal(whole[1:], part)
    images, labels = both
    assert tuple(images.shape) == (2, 3, 64, 64)
    assert images.dtype == torch.float32
    assert set(labels.unique().tolist()) <= {0, 3, 8, 11}
    assert not torch.equal(images, one.batch(6, [0, 1])[0])


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    experiment = make_experiment(streets(), draw_streets(tmp_path))
    seen: list[int] = []
    read = experiment._read  # type: ignore[attr-defined]
    experiment._read = lambda index: seen.append(index) or read(index)  # type: ignore[attr-defined]
    for step in range(6):
        experiment.batch(step, [0, 1])
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_window_moves_image_and_truth_alike(rng: np.random.Generator) -> None:
    truth = np.kron(rng.integers(0, 4, (6, 8)), np.ones((8, 8))).astype(np.uint8)
    image = np.repeat(truth[..., None] * 60, 3, axis=2)
    for _ in range(20):
        x, y = random_window(
            image, truth, (40, 56), (0.5, 2.0), rng, fill=np.full(3, 200, np.uint8), ignore=11
        )
        assert x.shape == (40, 56, 3)
        inside = y != 11
        assert np.all(x[~inside] == 200)
        # Interpolation blurs the borders between blocks; inside them the gray tells the class.
        assert np.mean(np.abs(x[..., 0][inside].astype(int) - 60 * y[inside]) < 10) > 0.6


def test_jitter_of_nothing_is_nothing(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    assert color_jitter(image, 0.0, rng) is image
    assert 1 < np.abs(color_jitter(image, 0.4, rng).astype(int) - image).mean() < 80


@pytest.mark.parametrize("weighted", [False, True])
def test_hard_pixels_are_the_released_rule(rng: np.random.Generator, weighted: bool) -> None:
    """Against OHEM by sorting probabilities, pixel by pixel."""
    logits = torch.from_numpy(rng.standard_normal((2, 4, 5, 6)).astype(np.float32)) * 3
    labels = torch.from_numpy(rng.integers(0, 5, (2, 5, 6)))
    labels[labels == 4] = 9
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0]) if weighted else None
    for threshold, share in ((0.7, 0.1), (0.05, 0.5), (1.0, 1.0)):
        pixels = []
        for n, y, x in np.ndindex(2, 5, 6):
            label = int(labels[n, y, x])
            if label != 9:
                p = float(logits[n, :, y, x].softmax(0)[label])
                pixels.append((p, -math.log(p) * (1.0 if weights is None else float(weights[label]))))
        pixels.sort()
        limit = max(threshold, pixels[max(1, int(share * len(pixels))) - 1][0])
        expected = np.mean([loss for p, loss in pixels if p <= limit * (1 + 1e-6)])
        found = hard_cross_entropy(
            logits, labels, ignore=9, threshold=threshold, share=share, weights=weights
        )
        assert found.item() == pytest.approx(expected, rel=1e-4)
    nothing = hard_cross_entropy(logits, torch.full_like(labels, 9), ignore=9, threshold=0.7, share=0.5)
    assert nothing.item() == 0


def test_stride_takes_every_so_many_th_label_where_it_lies(rng: np.random.Generator) -> None:
    """Logits of full size make every label's place visible: the strided loss is that of a strided problem."""
    settings = {"layout": "camvid", "crop": (8, 8), "ohem_threshold": 1.0, "ohem_share": 1.0}
    logits = torch.from_numpy(rng.standard_normal((2, 11, 8, 8)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 11, (2, 8, 8)))

    def loss_of(chosen: SegmentationSettings) -> SegmentationLoss:
        return SegmentationLoss(torch.nn.Identity(), chosen, 255)

    def loss(stride: int) -> float:
        chosen = SegmentationSettings.model_validate({**settings, "stride": stride})
        return float(loss_of(chosen)(logits, labels)["loss"])

    kept = labels[:, 1::2, 1::2]
    at_half = F.interpolate(logits, (4, 4), mode="bilinear", align_corners=False)
    assert loss(1) == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert loss(2) == pytest.approx(float(F.cross_entropy(at_half, kept)), rel=1e-5)


def test_median_frequency_weighs_rare_classes_up() -> None:
    maps = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 2, 255]], np.uint8)]
    weights = median_frequency(maps, 3)  # frequencies 5/8, 1/4, 1/4
    torch.testing.assert_close(weights, torch.tensor([0.4, 1.0, 1.0]))


def test_class_weights_are_counted_map_by_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cityscapes' class maps take 6 GB together."""
    experiment = make_experiment(streets({"balance": "median"}), draw_streets(tmp_path))
    alive: list[weakref.ref[np.ndarray]] = []
    most, read = 0, Layout.read

    def counted(layout: Layout, path: Path) -> np.ndarray:
        nonlocal most
        alive[:] = [reference for reference in alive if reference() is not None]
        most = max(most, len(alive))
        classes = read(layout, path)
        alive.append(weakref.ref(classes))
        return classes

    monkeypatch.setattr(Layout, "read", counted)
    weights = experiment.objective(torch.nn.Identity(), None).weights
    monkeypatch.undo()
    assert most == 1
    whole = [read(experiment.layout, sample.truth) for sample in experiment.train]
    assert len(whole) == 6
    torch.testing.assert_close(weights, median_frequency(whole, 11))


def test_distillation_is_the_divergence_of_softened_distributions(rng: np.random.Generator) -> None:
    s, t = (torch.from_numpy(rng.standard_normal((3, 5)).astype(np.float32)) for _ in range(2))
    expected = 4 * F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(distillation_loss(s, t, 2.0), expected)
    assert distillation_loss(t, t, 1.0).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(RecipeError, match="the teacher's output"):
        distillation_loss(s, t[:, :4], 1.0)


def test_cityscapes_is_read_as_its_authors_lay_it_out(tmp_path: Path) -> None:
    city = tmp_path / "leftImg8bit" / "train" / "aachen"
    truth = tmp_path / "gtFine" / "train" / "aachen"
    city.mkdir(parents=True)
    truth.mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(city / "aachen_0_leftImg8bit.png")
    with pytest.raises(UsageError, match="1 of 1 class maps are missing"):
        find_samples(tmp_path, layout_of("cityscapes"), "train")
    stored = np.array([[7, 8, 0, 33], [26, 11, 4, 31]], np.uint8)
    Image.fromarray(stored).save(truth / "aachen_0_gtFine_labelIds.png")
    (sample,) = find_samples(tmp_path, layout_of("cityscapes"), "train")
    np.testing.assert_array_equal(
        layout_of("cityscapes").read(sample.truth), [[0, 1, 255, 18], [13, 2, 255, 16]]
    )
    with pytest.raises(UsageError, match="has no images in leftImg8bit/val"):
        find_samples(tmp_path, layout_of("cityscapes"), "val")


def test_cityscapes_is_measured_in_training_as_it_is_afterward(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for split in ("train", "val"):
        for kind, name, array in (
            ("leftImg8bit", "leftImg8bit", rng.integers(0, 256, (64, 96, 3))),
            ("gtFine", "gtFine_labelIds", rng.integers(0, 34, (64, 96))),
        ):
            (tmp_path / kind / split / "ulm").mkdir(parents=True)
            path = tmp_path / kind / split / "ulm" / f"ulm_0_{name}.png"
            Image.fromarray(array.astype(np.uint8)).save(path)
    recipe = streets({"layout": "cityscapes"}, options={"classes": 19, "augment": True})
    experiment, network = make_experiment(recipe, tmp_path), create_model("ddrnet_23_slim")
    found, wanted = experiment.evaluate(network), measure(network, experiment.info, tmp_path)
    assert wanted.pop("images") == 1
    assert found == wanted
    assert 0 < found["pixel_accuracy"] < 0.5


def test_classes_of_layouts_are_called_as_networks_call_them() -> None:
    assert layout_of("cityscapes").labels == CITYSCAPES
    assert layout_of("camvid").labels[:3] == ("sky", "building", "pole")


def test_class_maps_of_another_data_set_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 17]], np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(UsageError, match="holds class 17 of 11"):
        layout_of("camvid").read(tmp_path / "x.png")


def halve(path: Path) -> None:
    with Image.open(path) as opened:
        smaller = opened.resize((opened.width // 2, opened.height // 2), Image.Resampling.NEAREST)
    smaller.save(path)


def test_a_class_map_of_another_size_is_not_stretched_onto_its_image(tmp_path: Path) -> None:
    data = draw_streets(tmp_path, count=1)
    halve(data / "trainannot" / "0.png")
    experiment = make_experiment(streets(), data)
    with pytest.raises(UsageError, match=r"train.0\.png and its class map differ in size"):
        experiment.batch(0, [0])


def test_validation_is_measured_at_the_size_of_the_class_maps_as_the_task_does(tmp_path: Path) -> None:
    data = draw_streets(tmp_path, count=3)
    for index, folder in enumerate(("val", "valannot")):
        halve(data / folder / f"{index}.png")
    experiment = make_experiment(streets(), data)
    network = create_model("ddrnet_23_slim", classes=11)
    found, wanted = experiment.evaluate(network), measure(network, experiment.info, data)
    assert wanted.pop("images") == 3
    assert found == wanted


def test_a_sheet_shows_images_of_all_sizes_with_prediction_and_truth(tmp_path: Path) -> None:
    data = draw_streets(tmp_path, count=2)
    for folder in ("val", "valannot"):
        halve(data / folder / "1.png")
    halve(data / "valannot" / "0.png")
    experiment = make_experiment(streets(), data)
    sheet = experiment.sheet(create_model("ddrnet_23_slim", classes=11))
    assert sheet.shape == (2 * 484 + 4, 3 * 484 + 4, 3)  # two rows of three cells of 480 pixels
    for row, name in enumerate("01"):
        image = resize_image(read_image(data / "val" / f"{name}.png"), 32, 48)
        top = 4 + 484 * row
        np.testing.assert_array_equal(sheet[top : top + 320, 4:484], fit(image, 480))
        assert (sheet[top : top + 320, 972:1452] != 255).any(2).mean() > 0.9


def test_classes_must_be_those_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"camvid has 11 classes"):
        make_experiment(streets(options={"classes": 19}), draw_streets(tmp_path))


def test_camvid_itself_is_found_whole(shared: Path) -> None:
    layout = layout_of("camvid")
    assert len(find_samples(shared / "data" / "camvid", layout, "train")) == 367
    assert len(find_samples(shared / "data" / "camvid", layout, "val")) == 101
