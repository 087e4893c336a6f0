"""Soft targets, mixing and the loss of classifiers; the small classifier learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgedeploy.models import create_model
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
