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
from edgedeploy.models.layers_norm import PRepBN, schedule_norms
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.training.classification import (
    cutmix,
    mix,
    mixup,
    smoothed,
    soft_cross_entropy,
    top1,
)
from edgedeploy.models.training.experiments.base import make_experiment
from edgedeploy.models.training.measure import measure
from tests.training_runs import colours, draw_classes, write_archive


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
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        images, labels = stripes(24, rng)
        loss = soft_cross_entropy(model(images), smoothed(labels, 4))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
    assert all(norm.iter == 0 for norm in model.modules() if isinstance(norm, PRepBN))
    images, labels = stripes(200, rng)
    model.eval()
    with torch.no_grad():
        trained, deployed = model(images), reparameterize(model)(images)
    assert top1(trained, labels) > 0.9
    assert (trained - deployed).abs().max() <= 1e-5 * trained.abs().max()


def test_norms_fade_as_the_settings_say(tmp_path: Path) -> None:
    """Layer norm's share: alone at first, a line down, gone after `norm_share` of the steps."""
    data = draw_classes(tmp_path)
    for settings, shares in (
        ({"norm_share": 0.5, "norm_warm": 0.2}, [(2, 3), (1, 3), (0, 3), (0, 2), (0, 1), (0, 0), (0, 0)]),
        ({"norm_share": 0.0}, [(0, 0)] * 7),
    ):
        recipe = colours(settings, steps=10)
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
    with pytest.raises(UsageError, match="picture 0 is damaged"):
        measure(network, info, archive)
    np.savez(archive, jpeg=np.zeros(3, np.uint8), offsets=[0, 9], labels=[0], classes=["red"])
    with pytest.raises(UsageError, match="is cut off"):
        measure(network, info, archive)


def test_classes_must_be_those_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has 3 classes"):
        make_experiment(colours(options={"classes": 10}), draw_classes(tmp_path))


def test_what_is_mixed_is_the_whole_batch_however_it_is_shared(tmp_path: Path) -> None:
    recipe = colours({"mixup": 0.8, "cutmix": 1.0})
    experiment = make_experiment(recipe, draw_classes(tmp_path))
    for step in range(4):
        whole = experiment.batch(step, range(6))
        for first, last in ((0, 3), (3, 6), (1, 2)):
            part = experiment.batch(step, range(first, last))
            assert torch.equal(part[0], whole[0][first:last])
            assert torch.equal(part[1], whole[1][first:last])
