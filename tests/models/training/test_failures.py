"""What goes wrong in a training: nothing is lost, and it is said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgedeploy.core.errors import EdgeDeployError, RecipeError, UsageError
from edgedeploy.models import create_model
from edgedeploy.models.checkpoint import load_checkpoint, load_weights
from edgedeploy.models.state_file import Description, write_state
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.experiments.segmentation import Segmentation
from edgedeploy.models.training.loop import Every, Training
from edgedeploy.models.training.runs import Run
from tests.support import training_runs as runs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")


def test_updates_are_kept_where_measuring_finds_the_data_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, recipe, every = runs.draw_streets(tmp_path / "data"), runs.streets(steps=4), Every(10, 2)
    *_, whole = Run(recipe, data, tmp_path / "whole", every=every).train()

    def wrong(self: Segmentation, network: object) -> dict[str, float]:
        raise UsageError("val/0.png is damaged", "fetch it again")

    with monkeypatch.context() as patched:
        patched.setattr(Segmentation, "evaluate", wrong)
        with pytest.raises(UsageError, match="is damaged"):
            list(Run(recipe, data, tmp_path / "part", every=every).train())
        with pytest.raises(UsageError, match="is damaged"):  # it goes on, and comes to the end
            list(Run(recipe, data, tmp_path / "part", resume=True, every=every).train())
    resumed = Run(recipe, data, tmp_path / "part", resume=True, every=every)
    assert resumed.training.step == 4
    *_, last = resumed.train()
    assert last.metrics == whole.metrics
    for key, value in whole.network.state_dict().items():
        assert torch.equal(last.network.state_dict()[key], value), key


def test_a_run_is_measured_as_often_as_asked_for(tmp_path: Path) -> None:
    data = runs.draw_streets(tmp_path / "data")
    reports = list(Run(runs.streets(steps=7), data, tmp_path / "run", every=Every(4, 3)).train())
    assert [(report.step, bool(report.metrics)) for report in reports] == [
        (3, True), (4, False), (6, True), (7, True),
    ]  # fmt: skip


def test_fp16_goes_on_with_the_scale_of_its_gradients(tmp_path: Path) -> None:
    data, recipe = runs.draw_photographs(tmp_path), runs.upscaling(steps=24, precision="16-mixed")
    *_, whole = Training(recipe, data, tmp_path / "whole.ckpt", Every(100, 100)).run()
    part = Training(recipe, data, tmp_path / "part.ckpt", Every(10, 100)).run()
    next(part)
    part.close()
    *_, last = Training(recipe, data, tmp_path / "part.ckpt", Every(100, 100)).run()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(last.network.state_dict()[key], value), key


@pytest.mark.parametrize("changes", [{"ema": 0}, {}, {"quantized_steps": 4}])
def test_a_checkpoint_is_the_weights_that_the_run_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = runs.upscaling(steps=4, **changes)
    list(Run(recipe, runs.draw_photographs(tmp_path), tmp_path / "run").train())
    given = load_file(tmp_path / "run" / "last.safetensors")
    loaded = load_weights("espcn_x2", tmp_path / "run" / "checkpoint.ckpt").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in given.items())


def test_options_that_the_first_weights_need_are_in_the_new_ones(tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    said = Description({"norm": "layernorm"}, (), {"crop": 0.5})
    write_state(first, create_model("slab_deit_micro", norm="layernorm", classes=3).state_dict(), said)
    data, recipe = runs.draw_classes(tmp_path / "data"), runs.colors(steps=2, weights=str(first))
    run = Run(recipe, data, tmp_path / "run")
    list(run.train())
    loaded = load_checkpoint(recipe.model, tmp_path / "run" / "last.safetensors")
    assert loaded.info.task.options["crop"] == 0.5
    assert run.training.recipe.options["norm"] == "layernorm"
    own = runs.colors(steps=2, weights=str(first), task={"crop": 0.75})
    assert Training(own, data, tmp_path / "x.ckpt").recipe.task == {"crop": 0.75}


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"options": {"clases": 11}}, "ddrnet_23_slim has no option clases", "classes"),
        ({"model": "espcn_x2", "options": {}}, "espcn_x2 is no network for segmentation", "super-resolution"),
    ],
)
def test_a_model_that_does_not_fit_is_told(
    changes: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(EdgeDeployError, match=message) as caught:
        make_experiment(runs.streets(**changes), tmp_path)
    assert hint in caught.value.hint


def test_few_pairs_of_faces_are_told_before_training(tmp_path: Path) -> None:
    data = runs.draw_faces(tmp_path / "data")
    people = sorted(path.name for path in data.iterdir())
    pairs = data / "pairs"
    pairs.mkdir()
    face = next((data / people[0]).iterdir())
    (pairs / "a.png").write_bytes(face.read_bytes())
    (pairs / "pairs.txt").write_text("a.png a.png 1\n" * 4)
    recipe = runs.faces({"people": 0, "validation": "pairs"})
    with pytest.raises(UsageError, match="4 pairs are too few"):
        make_experiment(recipe, data)
    (pairs / "pairs.txt").write_text("a.png b.png 1\n" * 40)
    with pytest.raises(UsageError, match=r"b\.png does not exist"):
        make_experiment(recipe, data)


def test_what_begins_a_training_is_said_once(tmp_path: Path) -> None:
    from edgedeploy.models.training.recipe import TrainingRecipe, validated

    document = runs.streets().model_dump()
    for change, message in (
        ({"weights": "camvid", "initialize": "x.pth"}, "exclude each other"),
        ({"optimizer": {"name": "soap", "learning_rate": 1e-3, "weight_decay": 0.1}}, "no weight decay"),
        ({"optimizer": {"name": "adam", "learning_rate": 1e-3, "betas": [0.9, 1.5]}}, "optimizer.betas"),
    ):
        with pytest.raises(RecipeError, match=message):
            validated(TrainingRecipe, {**document, **change}, "r.yaml")
    with pytest.raises(RecipeError, match="the lower end comes first"):
        make_experiment(runs.signs({"scale": (2.0, 0.5)}), tmp_path)
