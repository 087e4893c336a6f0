"""Soft targets, mixing and the loss of classifiers; the small classifier learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.layers.norm import PRepBN, schedule_norms
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.training.augment import random_area, shifted
from edgedeploy.models.training.classification import (
    cutmix,
    mix,
    mixup,
    smoothed,
    soft_cross_entropy,
)
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.image_cache import ImageCache
from edgedeploy.models.training.measure import measure
from edgedeploy.models.training.sheets import contact_sheet
from tests.support.training_runs import colors, draw_classes, write_archive


def test_smoothed_targets_and_loss_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    targets = smoothed(labels, 5, 0.1)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    want = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(soft_cross_entropy(logits, targets), want)
    with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
        smoothed(labels, 5, 1.0)


def images_that_are_their_number(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one value each, and targets of one class each: what is mixed in can be read off."""
    values = torch.arange(count, dtype=torch.float32)
    return values[:, None, None, None].expand(-1, 3, 12, 20).clone(), torch.eye(count)


@pytest.mark.parametrize("way", [mixup, cutmix])
def test_targets_say_how_much_of_each_image_there_is(way: object, rng: np.random.Generator) -> None:
    images, targets = images_that_are_their_number(4)
    partly = 0
    for _ in range(30):
        mixed, shares = way(images, targets, rng, 1.0)  # type: ignore[operator]
        means = mixed.mean((1, 2, 3))
        assert torch.allclose(means, shares @ torch.arange(4.0), atol=1e-5)
        assert torch.allclose(shares.sum(1), torch.ones(4))
        partly += bool(0.05 < shares[0, 0] < 0.95)
    assert partly > 10
    assert torch.equal(images, images_that_are_their_number(4)[0])  # the batch itself stays


def test_cutmix_keeps_pixels_whole(rng: np.random.Generator) -> None:
    images, targets = images_that_are_their_number(4)
    for _ in range(10):
        mixed, _ = cutmix(images, targets, rng)
        assert set(mixed[0].unique().tolist()) <= {0.0, 3.0}


def test_mix_takes_both_ways_or_neither(rng: np.random.Generator) -> None:
    images, _ = images_that_are_their_number(4)
    labels = torch.arange(4)
    kinds = {
        bool(set(mix(images, labels, 4, rng)[0].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}) for _ in range(20)
    }
    assert kinds == {True, False}
    same, targets = mix(images, labels, 4, rng, mixup_alpha=0, cutmix_alpha=0)
    assert torch.equal(same, images)
    assert torch.equal(targets, smoothed(labels, 4))


def stripes(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy gratings of four directions: the classes can be told by looking at the whole only."""
    labels = rng.integers(0, 4, count)
    angle = labels * np.pi / 4
    y, x = np.mgrid[:32, :32]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    waves = np.sin(along * 0.9 + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
    pixels = waves[:, None] + rng.normal(0, 0.3, (count, 3, 32, 32))
    return torch.from_numpy(pixels.astype(np.float32)), torch.from_numpy(labels)


def test_the_small_network_learns_and_ends_on_batch_norm_alone(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    steps = 45
    model = create_model("slab_deit_micro", classes=4).train()
    assert schedule_norms(model, steps - 10) == 9
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        images, labels = stripes(24, rng)
        loss = soft_cross_entropy(model(images), smoothed(labels, 4))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    assert all(norm.iter == 0 for norm in model.modules() if isinstance(norm, PRepBN))
    images, labels = stripes(200, rng)
    model.eval()
    with torch.no_grad():
        trained, deployed = model(images), reparameterize(model)(images)
    assert (trained.argmax(-1) == labels).double().mean() > 0.9
    assert (trained - deployed).abs().max() <= 1e-5 * trained.abs().max()


def test_norms_fade_as_the_settings_say(tmp_path: Path) -> None:
    """Layer norm's share: alone at first, a line down, gone after `norm_share` of the steps."""
    data = draw_classes(tmp_path)
    for settings, shares in (
        ({"norm_share": 0.5, "norm_warm": 0.2}, [(2, 3), (1, 3), (0, 3), (0, 2), (0, 1), (0, 0), (0, 0)]),
        ({"norm_share": 0.0}, [(0, 0)] * 7),
    ):
        recipe = colors(settings, steps=10)
        network = create_model("slab_deit_micro", classes=3)
        objective = make_experiment(recipe, data).objective(network, None)
        norm = next(m for m in network.modules() if isinstance(m, PRepBN))
        for step, (warm, left) in enumerate(shares):
            assert (int(norm.warm), int(norm.iter)) == (warm, left), step
            objective.train()(*make_experiment(recipe, data).batch(step, range(6)))


def test_twins_deploy_as_what_they_are() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 32, 32)
    for options in (
        {"norm": "layernorm"},
        {"norm": "layernorm", "attention": "softmax"},
        {"attention": "softmax"},
    ):
        model = create_model("slab_deit_micro", **options).eval()
        norms = {type(m).__name__ for m in reparameterize(model).modules() if "orm" in type(m).__name__}
        assert norms == ({"LayerNorm"} if "norm" in options else set())
        with torch.no_grad():
            torch.testing.assert_close(reparameterize(model)(image), model(image), atol=1e-5, rtol=1e-4)


def test_archives_are_measured_like_folders(tmp_path: Path) -> None:
    """The same pictures in both forms, and damaged archives."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(12)]
    labels = [index % 3 for index in range(12)]
    archive = write_archive(tmp_path / "test.npz", pictures, labels, ("red", "green", "blue"))
    for index, pixels in enumerate(pictures):
        folder = tmp_path / "folders" / ("red", "green", "blue")[labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    torch.manual_seed(0)
    network, info = (
        create_model("slab_deit_micro", classes=3),
        MODELS.get("slab_deit_micro").variant(classes=3),
    )
    info = replace(info, labels=("red", "green", "blue"))
    found = measure(network, info, archive)
    assert found == measure(network, info, tmp_path) == measure(network, info, tmp_path / "folders")
    with torch.no_grad():
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(info.task.options[k])[:, None, None] for k in ("mean", "std"))
        guesses = network.eval()((x - mean) / std).argmax(1)
    assert found["top1"] == pytest.approx((guesses == torch.tensor(labels)).double().mean().item())

    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"not a whole \.npz"):
        measure(network, info, archive)
    np.savez(archive, jpeg=np.zeros(3, np.uint8), offsets=[0, 3], labels=[0])
    with pytest.raises(UsageError, match="has no array classes"):
        measure(network, info, archive)
    np.savez(archive, jpeg=np.zeros(3, np.uint8), offsets=[0, 3], labels=[0], classes=["red"])
    with pytest.raises(UsageError, match="picture 0 is not a whole image"):
        measure(network, info, archive)
    np.savez(archive, jpeg=np.zeros(3, np.uint8), offsets=[0, 9], labels=[0], classes=["red"])
    with pytest.raises(UsageError, match="is cut off"):
        measure(network, info, archive)


def test_classes_must_be_those_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has 3 classes"):
        make_experiment(colors(options={"classes": 10}), draw_classes(tmp_path))


def test_what_is_mixed_is_the_whole_batch_however_it_is_shared(tmp_path: Path) -> None:
    recipe = colors({"mixup": 0.8, "cutmix": 1.0})
    experiment = make_experiment(recipe, draw_classes(tmp_path))
    for step in range(4):
        whole = experiment.batch(step, range(6))
        for first, last in ((0, 3), (3, 6), (1, 2)):
            part = experiment.batch(step, range(first, last))
            assert torch.equal(part[0], whole[0][first:last])
            assert torch.equal(part[1], whole[1][first:last])


def test_windows_show_the_share_that_they_should(rng: np.random.Generator) -> None:
    image = np.arange(60 * 80 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 80, 3)
    assert random_area(image, (1.0, 1.0), rng) is image
    shares = [random_area(image, (0.2, 0.6), rng).shape for _ in range(200)]
    areas = np.array([height * width / 4800 for height, width, _ in shares])
    assert 0.15 < areas.min() < 0.25
    assert 0.5 < areas.max() < 0.65
    ratios = np.array([width / height * 60 / 80 for height, width, _ in shares])
    assert 0.7 < ratios.min() < 0.9
    assert 1.1 < ratios.max() < 1.4


def test_shifts_bring_black_in(rng: np.random.Generator) -> None:
    image = np.full((6, 8, 3), 9, np.uint8)
    assert shifted(image, 0, rng) is image
    lost = set()
    for _ in range(80):
        moved = shifted(image, 2, rng)
        assert moved.shape == image.shape
        lost.add((6 - (moved[:, 4, 0] == 9).sum(), 8 - (moved[3, :, 0] == 9).sum()))
    assert lost == {(y, x) for y in range(3) for x in range(3)}


def test_images_are_decoded_once_while_memory_lasts() -> None:
    read: list[int] = []

    def decode(index: int) -> np.ndarray:
        read.append(index)
        return np.full(100, index, np.uint8)

    cache = ImageCache(decode, memory=250)
    assert [int(cache(index)[0]) for index in (0, 1, 2, 0, 1, 2, 2)] == [0, 1, 2, 0, 1, 2, 2]
    assert read == [0, 1, 2, 2, 2]


def test_contact_sheets_keep_proportions_and_order() -> None:
    pictures = [np.full(shape, value, np.uint8) for value, shape in ((10, (4, 8, 3)), (20, (90, 30, 3)))]
    sheet = contact_sheet(pictures, columns=2, cell=40)
    assert sheet.shape == (48, 92, 3)
    assert ((sheet == 10).all(2)).sum() == 40 * 20
    assert ((sheet == 20).all(2)).sum() == 40 * 13
    assert (sheet == 10).any(2)[:, :44].sum() == 40 * 20
