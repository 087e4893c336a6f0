"""Losses and labels of face verification and of disc and cup, and that the small network learns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models import create_model
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.experiments.face_embedding import people_of
from edgedeploy.models.training.tvconv import AMSoftmax, disc_cup_loss
from edgedeploy.vision.images import read_image
from tests.support.training_runs import draw_faces, draw_fundus, faces, fundus


def test_am_softmax_against_its_formula() -> None:
    torch.manual_seed(0)
    loss, x, labels = AMSoftmax(6, 4, scale=8, margin=0.2), torch.randn(3, 6), torch.tensor([2, 0, 3])
    total = 0.0
    for row, label in zip(x, labels.tolist(), strict=True):
        cosines = [float(row @ center / row.norm() / center.norm()) for center in loss.weight.detach()]
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


def test_disc_cup_loss_is_the_cross_entropy_of_each_pixel() -> None:
    logits, targets = torch.tensor([[[[0.3]], [[-2.0]]]]), torch.tensor([[[[1.0]], [[0.0]]]])
    shares = torch.sigmoid(logits).flatten()
    want = -(shares[0].log() + (1 - shares[1]).log()) / 2
    torch.testing.assert_close(disc_cup_loss(logits, targets), want)


def test_disc_cup_loss_adds_one_minus_the_dice_of_each_channel() -> None:
    logits, targets = torch.randn(2, 2, 5, 6), torch.randint(0, 2, (2, 2, 5, 6)).float()
    p = logits.sigmoid()
    shares = [
        1 - 2 * (p[:, c] * targets[:, c]).sum() / (p[:, c].sum() + targets[:, c].sum()) for c in range(2)
    ]
    want = disc_cup_loss(logits, targets) + 3 * (shares[0] + shares[1]) / 2
    torch.testing.assert_close(disc_cup_loss(logits, targets, dice=3.0), want)


def test_disc_cup_loss_is_a_number_where_there_is_no_disc() -> None:
    assert torch.isfinite(disc_cup_loss(torch.full((1, 2, 4, 4), -200.0), torch.zeros(1, 2, 4, 4), dice=1.0))


def test_the_small_network_learns_two_people() -> None:
    torch.manual_seed(0)
    network, loss = create_model("tvconv_face_micro"), AMSoftmax(128, 2)
    faces = torch.rand(2, 3, 48, 48).repeat_interleave(4, 0) + 0.1 * torch.rand(8, 3, 48, 48)
    labels = torch.arange(2).repeat_interleave(4)
    optimizer = torch.optim.SGD([*network.parameters(), *loss.parameters()], 0.01, momentum=0.9)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        value = loss(network(faces), labels)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.3 * losses[0]
    maps = [p.grad for name, p in network.named_parameters() if name.endswith("posi_map")]
    assert all(grad is not None and bool(grad.abs().max() > 0) for grad in maps)


def test_people_come_in_natural_order_and_the_others_are_verified(tmp_path: Path) -> None:
    data = draw_faces(tmp_path, people=11, images=5)
    assert [path.name for path in people_of(data)] == [f"s{number}" for number in range(1, 12)]
    experiment = make_experiment(faces({"people": 9}), data)
    trained = {file.parent.name for file, _ in experiment.train}  # type: ignore[attr-defined]
    verified = {file.parent.name for pair in experiment.pairs for file in pair[:2]}  # type: ignore[attr-defined]
    assert trained == {f"s{number}" for number in range(1, 10)}
    assert verified == {"s10", "s11"}
    with pytest.raises(UsageError, match="holds 11 people, not 12"):
        make_experiment(faces({"people": 12}), data)


def test_a_folder_of_pairs_is_verified_and_not_trained_on(tmp_path: Path) -> None:
    data = draw_faces(tmp_path, people=4, images=5)
    (data / "lfw").mkdir()
    for number in (3, 4):
        (data / f"s{number}").rename(data / "lfw" / f"s{number}")
    experiment = make_experiment(faces({"people": 0, "validation": "lfw"}), data)
    assert {file.parent.name for file, _ in experiment.train} == {"s1", "s2"}  # type: ignore[attr-defined]
    assert all("lfw" in file.parts for pair in experiment.pairs for file in pair[:2])  # type: ignore[attr-defined]


def test_faces_are_trained_as_they_are_measured_but_for_the_mirror(tmp_path: Path) -> None:
    data = draw_faces(tmp_path)
    experiment = make_experiment(faces(batch=20), data)
    images, people = experiment.batch(0, range(20))
    seen = set()
    for face, person in zip(images, people, strict=True):
        files = [file for file, number in experiment.train if number == person]  # type: ignore[attr-defined]
        plain = [next(iter(experiment.task.preprocess(read_image(file)).values()))[0] for file in files]  # type: ignore[attr-defined]
        straight = any(np.array_equal(face, other) for other in plain)
        mirrored = any(np.array_equal(face, other[..., ::-1]) for other in plain)
        assert straight != mirrored
        seen.add(straight)
    assert seen == {True, False}


def test_folds_cover_every_photograph_once(tmp_path: Path) -> None:
    data = draw_fundus(tmp_path, count=7)
    held_out = []
    for fold in range(3):
        experiment = make_experiment(fundus({"fold": fold}), data)
        val = [file for file, _ in experiment.val]  # type: ignore[attr-defined]
        assert not {file for file, _ in experiment.train} & set(val)  # type: ignore[attr-defined]
        assert len(experiment.train) + len(val) == 7  # type: ignore[attr-defined]
        held_out += val
    assert [file.name for file in held_out] == [f"{index}.png" for index in range(7)]
    with pytest.raises(RecipeError, match="no fold 3 of 3"):
        make_experiment(fundus({"fold": 3}), data)
    (data / "masks" / "2.png").unlink()
    with pytest.raises(UsageError, match=r"has no mask .*2\.png"):
        make_experiment(fundus(), data)


def test_masks_move_with_the_photograph(tmp_path: Path) -> None:
    """The disc is bright: what the targets call disc is brighter than what they do not."""
    experiment = make_experiment(fundus({"scale": (1.0, 1.6), "often": 1.0}, batch=6), draw_fundus(tmp_path))
    images, masks = experiment.batch(0, range(6))
    for image, (cup, disc) in zip(images.mean(1), masks, strict=True):
        assert bool((cup <= disc).all())
        ring = disc.bool() & ~cup.bool()
        assert image[cup.bool()].mean() > image[ring].mean() + 0.2 > image[~disc.bool()].mean() + 0.6
