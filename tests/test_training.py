"""Training: it learns, it resumes bit for bit, and its parts do what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.checkpoint import load_weights
from edgedeploy.models.training.measure import measure
from edgedeploy.models.training.patches import draw_batch, load_pairs
from edgedeploy.models.training.recipe import TrainingRecipe
from edgedeploy.models.training.soap import Soap
from edgedeploy.models.training.super_resolution import learning_rate, main, patch_loss, train
from edgedeploy.tasks.colour import luma_from_rgb

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two folders of drawn pictures: smooth waves and hard edges, which bicubic cannot restore."""
    rng = np.random.default_rng(0)
    for index, folder in enumerate(("a", "a", "b")):
        y, x = np.mgrid[0:60, 0:72]
        waves = np.sin((x * rng.random() + y * rng.random()) / 2)[..., None]
        edges = ((x + 2 * y) // rng.integers(5, 12) % 2)[..., None]
        picture = 128 + 60 * waves * rng.random(3) + 60 * (edges - 0.5)
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / folder / f"{index}.png")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    return tmp_path


def tiny(**changes: object) -> TrainingRecipe:
    fields = {
        "model": "espcn_x2", "scale": 2, "folders": ("a", "b"), "steps": 60, "batch": 4, "patch": 12,
        "warmup": 10, "ema": 0.9,
    }  # fmt: skip
    return TrainingRecipe.model_validate({**fields, **changes})


def test_pairs_are_aligned_and_of_both_folders(data: Path) -> None:
    pairs = load_pairs(data, tiny(scale=3, model="espcn_x3"))
    assert [tuple(low.shape) for low, _ in pairs.images] == [(20, 24)] * 3
    assert all(tuple(high.shape) == (60, 72) for _, high in pairs.images)
    np.testing.assert_allclose(pairs.weights, [0.25, 0.25, 0.5])  # both folders are drawn equally often
    whole = luma_from_rgb(np.asarray(Image.open(data / "b" / "2.png").convert("RGB")))
    np.testing.assert_array_equal(pairs.images[2][1].numpy(), whole)
    low, high = pairs.images[2]
    blocks = high.reshape(20, 3, 24, 3).mean((1, 3))
    assert (low - blocks).abs().mean() < 0.3 * high.std()
    assert (low.roll(2, 1) - blocks).abs().mean() > (low - blocks).abs().mean()


def test_shrink_adds_copies_and_drops_what_is_too_small(data: Path) -> None:
    assert len(load_pairs(data, tiny(shrink=(1.0, 0.5))).images) == 6
    assert len(load_pairs(data, tiny(shrink=(1.0, 0.2))).images) == 3


def test_batches_depend_on_seed_and_step_alone(data: Path) -> None:
    recipe = tiny()
    pairs = load_pairs(data, recipe)
    low, high = draw_batch(pairs, recipe, 5)
    assert tuple(low.shape) == (4, 1, 12, 12)
    assert tuple(high.shape) == (4, 1, 24, 24)
    assert torch.equal(low, draw_batch(pairs, recipe, 5)[0])
    assert not torch.equal(low, draw_batch(pairs, recipe, 6)[0])
    assert not torch.equal(low, draw_batch(pairs, tiny(seed=1), 5)[0])
    # Flips and transposition move both patches alike: shrunk by averaging, the high one is the low one.
    small = nn.functional.avg_pool2d(high, 2)
    matching = (small - low).abs().mean((1, 2, 3))
    flipped = (small.flip(2) - low).abs().mean((1, 2, 3))
    assert bool((matching < flipped).all())


def test_learning_rate_rises_then_falls_to_its_end() -> None:
    recipe = tiny(steps=100, learning_rate=1e-2, final_learning_rate=1e-4)
    rates = [learning_rate(recipe, step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-2)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(1e-4)


def test_loss_is_the_mean_psnr_of_patches_up_to_the_floor() -> None:
    target = torch.zeros(2, 1, 4, 4)
    output = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.001)])
    loss, errors = patch_loss(output, target, 1e-12)
    torch.testing.assert_close(errors, torch.tensor([1e-2, 1e-6]))
    psnr = -10 / np.log(10) * loss.item()
    assert psnr == pytest.approx((20 + 60) / 2, abs=1e-3)
    assert patch_loss(output, target, 1e-2)[0].item() == pytest.approx(
        (np.log(2e-2) + np.log(1e-2)) / 2, abs=1e-3
    )


def test_training_beats_bicubic_on_its_own_pictures(data: Path, tmp_path: Path) -> None:
    *_, first, last = train(tiny(steps=200, learning_rate=1e-2), data, tmp_path / "x.ckpt", save_every=50)
    assert last.step == 200
    assert last.error < first.error
    scores = measure(last.model, MODELS.get("espcn_x2"), data / "a")
    assert scores["images"] == 2
    assert scores["psnr_y"] > scores["psnr_y_bicubic"] + 0.5
    fresh = measure(create_model("espcn_x2"), MODELS.get("espcn_x2"), data / "a")
    assert fresh["psnr_y"] < scores["psnr_y"] - 5


def test_resumed_training_equals_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    recipe = tiny()
    *_, whole = train(recipe, data, tmp_path / "whole.ckpt", save_every=20)

    killed = train(recipe, data, tmp_path / "killed.ckpt", save_every=20)
    assert next(killed).step == 20
    killed.close()
    steps = []
    for progress in train(recipe, data, tmp_path / "killed.ckpt", save_every=20):
        steps.append(progress.step)
    assert steps == [40, 60]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, progress.model.state_dict()[key]), key

    (again,) = train(recipe, data, tmp_path / "killed.ckpt")  # a finished one is not trained further
    assert again.step == 60
    assert torch.equal(
        again.model.state_dict()["last_part.0.bias"], whole.model.state_dict()["last_part.0.bias"]
    )


def test_averaged_weights_lag_behind_by_the_decay(data: Path, tmp_path: Path) -> None:
    path, before = tmp_path / "x.ckpt", None
    for _ in train(tiny(steps=5, ema=0.75), data, path, save_every=1):
        state = torch.load(path, weights_only=True)
        now, average = (state[part]["first_part.0.weight"] for part in ("model", "average"))
        if before is not None:
            torch.testing.assert_close(average, 0.75 * before + 0.25 * now)
        before = average
    assert not torch.equal(now, average)


def test_checkpoint_of_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    next(train(tiny(), data, tmp_path / "x.ckpt", save_every=1))
    with pytest.raises(UsageError, match="another recipe"):
        next(train(tiny(seed=3), data, tmp_path / "x.ckpt"))


def test_folder_without_pictures_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent has no image"):
        next(train(tiny(folders=("a", "absent")), data, tmp_path / "x.ckpt"))


def test_command_line_writes_the_averaged_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "out.safetensors"
    recipe.write_text(
        "{model: espcn_x2, scale: 2, folders: [a, b], steps: 20, batch: 2, patch: 8, warmup: 2, ema: 0.5}"
    )
    threads = str(torch.get_num_threads())  # it is a setting of the whole process: leave it as it is
    command = ["train", str(recipe), "--data", str(data), "--out", str(out), "--threads", threads]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "step 20/20" in capsys.readouterr().out
    average = torch.load(tmp_path / "out.ckpt", weights_only=True)["average"]
    for _ in range(2):
        state = load_file(out)
        assert all(torch.equal(state[key], value) for key, value in average.items())
        out.unlink()
        main()  # finds the training finished, and writes its result again
    have = load_weights("espcn_x2", tmp_path / "out.ckpt").state_dict()  # our checkpoints are weights, too
    assert all(torch.equal(have[key], value) for key, value in average.items())

    recipe.write_text("{model: espcn_x2, scale: 2, folders: [a], steps: 0}")
    with pytest.raises(SystemExit, match=r"error: .*r\.yaml: steps"):
        main()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: m, scale: 2, folders: [a], steps: 5, lr: 1}", "lr: Extra inputs"),
        ("{model: m, scale: 2, folders: [a]}", "steps: Field required"),
        ("{model: m, scale: 2, folders: [], steps: 5}", "folders:"),
        ("[", "is not a recipe"),
    ],
)
def test_recipe_at_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        TrainingRecipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "models/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_of_the_package_are_valid(path: Path) -> None:
    recipe = TrainingRecipe.load(path)
    assert recipe.model == path.stem
    assert MODELS.get(recipe.model).task.options["scale"] == recipe.scale


def badly_conditioned(optimiser: str, steps: int) -> float:
    """Final loss of a linear fit whose inputs are correlated, which Adam's own axes do not suit."""
    torch.manual_seed(0)
    mix = torch.linalg.qr(torch.randn(16, 16))[0] @ torch.diag(torch.logspace(0, -2, 16))
    x = torch.randn(512, 16) @ mix.T @ torch.linalg.qr(torch.randn(16, 16))[0]
    y = x @ torch.randn(16, 8)
    layer = nn.Linear(16, 8)
    maker = {"soap": Soap, "adam": torch.optim.Adam}[optimiser]
    chosen = maker(layer.parameters(), lr=3e-2)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        loss = (layer(x) - y).square().mean()
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    return loss.item()


def test_soap_solves_what_adam_finds_hard() -> None:
    assert badly_conditioned("soap", 200) < 0.2 * badly_conditioned("adam", 200)


def test_soap_on_a_vector_is_adam_one_step_late() -> None:
    """Vectors have no eigenbasis; the first step of SOAP only looks."""
    soap, adam = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one = Soap([soap], lr=0.1, betas=(0.9, 0.99))
    two = torch.optim.Adam([adam], lr=0.1, betas=(0.9, 0.99))
    for step in range(6):
        gradient = torch.linspace(-1, 2, 5) * (step + 1)
        soap.grad = gradient.clone()
        one.step()
        if step:
            adam.grad = gradient.clone()
            two.step()
    torch.testing.assert_close(soap, adam)


def test_soap_follows_the_eigenbasis_as_it_turns() -> None:
    weight = nn.Parameter(torch.zeros(6, 4))
    optimiser = Soap([weight], lr=1e-3)
    torch.manual_seed(0)
    left = torch.linalg.qr(torch.randn(6, 6))[0] * torch.logspace(0, -2, 6)
    right = torch.linalg.qr(torch.randn(4, 4))[0] * torch.logspace(0, -1, 4)
    for _ in range(300):
        weight.grad = left @ torch.randn(6, 4) @ right.T
        optimiser.step()
    state = optimiser.state[weight]
    basis = state["left_basis"]
    turned = basis.T @ state["left"] @ basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(6))
    off = turned - turned.diag().diag()
    assert off.norm() < 0.05 * turned.norm()


def test_soap_keeps_squares_with_their_directions_when_the_order_changes() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimiser = Soap([weight], lr=1e-3)
    orders = set()
    for step in range(160):
        large, small = (3.0, 1.0) if step < 80 else (1.0, 3.0)
        weight.grad = torch.diag(torch.tensor([large * (-1) ** step, small]))
        optimiser.step()
        if step > 60:
            state = optimiser.state[weight]
            turned = (state["left_basis"].T @ state["left"] @ state["left_basis"]).diag()
            torch.testing.assert_close(state["square"].diag(), turned, rtol=0.1, atol=0.1)
            orders.add(int(state["left_basis"][:, 0].abs().argmax()))
    assert orders == {0, 1}  # it did change
