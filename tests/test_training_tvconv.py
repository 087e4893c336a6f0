"""Losses and labels of face verification and of disc and cup, and that the small network learns."""

from __future__ import annotations

import math

import pytest
import torch

from edgedeploy.models import create_model
from edgedeploy.models.training.tvconv import AMSoftmax, disc_cup_loss, disc_cup_targets


def test_am_softmax_against_its_formula() -> None:
    torch.manual_seed(0)
    loss, x, labels = AMSoftmax(6, 4, scale=8, margin=0.2), torch.randn(3, 6), torch.tensor([2, 0, 3])
    total = 0.0
    for row, label in zip(x, labels.tolist(), strict=True):
        cosines = [float(row @ centre / row.norm() / centre.norm()) for centre in loss.weight.detach()]
        scaled = [8 * (c - 0.2 * (k == label)) for k, c in enumerate(cosines)]
        total += math.log(sum(map(math.exp, scaled))) - scaled[label]
    assert float(loss(x, labels).detach()) == pytest.approx(total / 3, rel=1e-5)


def test_length_of_embeddings_does_not_matter_and_the_margin_does() -> None:
    torch.manual_seed(0)
    loss, x, labels = AMSoftmax(6, 4), torch.randn(3, 6), torch.tensor([2, 0, 3])
    torch.testing.assert_close(loss(x, labels), loss(5 * x, labels))
    free = AMSoftmax(6, 4, margin=0.0)
    free.load_state_dict(loss.state_dict())
    assert loss(x, labels) > free(x, labels)


def test_targets_of_grey_levels() -> None:
    levels = torch.tensor([[[0, 50, 51, 128, 200, 201, 255]]])
    cup, disc = disc_cup_targets(levels)[0]
    assert cup.tolist() == [[1, 1, 0, 0, 0, 0, 0]]
    assert disc.tolist() == [[1, 1, 1, 1, 1, 0, 0]]


def test_disc_cup_loss_is_the_cross_entropy_of_each_pixel() -> None:
    logits, targets = torch.tensor([[[[0.3]], [[-2.0]]]]), torch.tensor([[[[1.0]], [[0.0]]]])
    shares = torch.sigmoid(logits).flatten()
    want = -(shares[0].log() + (1 - shares[1]).log()) / 2
    torch.testing.assert_close(disc_cup_loss(logits, targets), want)


def test_the_small_network_learns_two_people() -> None:
    torch.manual_seed(0)
    network, loss = create_model("tvconv_face_micro"), AMSoftmax(128, 2)
    faces = torch.rand(2, 3, 48, 48).repeat_interleave(4, 0) + 0.1 * torch.rand(8, 3, 48, 48)
    labels = torch.arange(2).repeat_interleave(4)
    optimiser = torch.optim.SGD([*network.parameters(), *loss.parameters()], 0.01, momentum=0.9)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        value = loss(network(faces), labels)
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.3 * losses[0]
    maps = [p.grad for name, p in network.named_parameters() if name.endswith("posi_map")]
    assert all(grad is not None and bool(grad.abs().max() > 0) for grad in maps)
