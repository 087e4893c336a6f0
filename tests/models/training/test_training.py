"""The training loop: it learns, it resumes bit for bit after any kill, processes share the work exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from edgedeploy.core.errors import RecipeError, UsageError
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.checkpoint import load_weights
from edgedeploy.models.training.loop import Every, Training, TrainingError, _average
from edgedeploy.models.training.measure import measure
from edgedeploy.models.training.recipe import TrainingRecipe
from edgedeploy.models.training.runs import Run
from tests.support.training_runs import draw_photographs, draw_streets, streets, upscaling

# Fabric warns of CPUs that could have more workers, and of precision plug-ins; neither is ours to act on.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return draw_photographs(tmp_path)


def finished(training: Training) -> dict[str, torch.Tensor]:
    *_, last = training.run()
    return dict(last.network.state_dict())


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def test_training_beats_bicubic_on_its_own_pictures(photographs: Path, tmp_path: Path) -> None:
    recipe = upscaling(steps=200, optimizer={"name": "soap", "learning_rate": 1e-2})
    *_, first, last = Training(recipe, photographs, tmp_path / "x.ckpt", Every(50)).run()
    assert last.step == 200
    assert last.losses["error"] < first.losses["error"]
    scores = measure(last.network, MODELS.get("espcn_x2"), photographs / "a")
    assert scores["images"] == 2
    assert scores["psnr_y"] > scores["psnr_y_bicubic"] + 0.5
    fresh = measure(create_model("espcn_x2"), MODELS.get("espcn_x2"), photographs / "a")
    assert fresh["psnr_y"] < scores["psnr_y"] - 5


def test_averages_forget_the_first_steps_soon() -> None:
    """Batch statistics of an untrained network may be huge, and 0.99^300 of 1e6 is 49 thousand."""
    average = AveragedModel(torch.nn.BatchNorm1d(2), multi_avg_fn=partial(_average, 0.99), use_buffers=True)
    average.n_averaged.fill_(1)
    values = torch.nn.BatchNorm1d(2)
    for step in range(300):
        values.running_var.fill_(1e6 if step < 3 else 2.0)
        values.num_batches_tracked.fill_(step)
        average.update_parameters(values)
    torch.testing.assert_close(average.module.running_var, torch.full((2,), 2.0), rtol=1e-3, atol=0)
    assert int(average.module.num_batches_tracked) == 299


def test_averages_settle_at_the_decay_that_was_asked_for() -> None:
    entries = [torch.zeros(1)]
    _average(0.9, entries, [torch.ones(1)], torch.tensor(10**6))
    torch.testing.assert_close(entries[0], torch.tensor([0.1]))


@pytest.mark.parametrize("quantized", [0, 20])
def test_resumed_training_equals_an_uninterrupted_one(
    photographs: Path, tmp_path: Path, quantized: int
) -> None:
    recipe = upscaling(quantized_steps=quantized)
    whole = finished(Training(recipe, photographs, tmp_path / "whole.ckpt", Every(1000)))
    killed = Training(recipe, photographs, tmp_path / "killed.ckpt", Every(20)).run()
    assert next(killed).step == 20
    killed.close()
    resumed = Training(recipe, photographs, tmp_path / "killed.ckpt", Every(20))
    assert resumed.step == 20
    assert_equal(finished(resumed), whole)
    again = Training(recipe, photographs, tmp_path / "killed.ckpt")  # a finished one is not trained further
    assert_equal(finished(again), whole)


def test_networks_with_norms_and_workers_resume_too(tmp_path: Path) -> None:
    data, recipe = draw_streets(tmp_path / "data"), streets(ema=0.5, settings={"jitter": 0.3})
    whole = finished(Training(recipe, data, tmp_path / "whole.ckpt", Every(100, 100)))
    part = Training(recipe, data, tmp_path / "part.ckpt", Every(2, 100), workers=1).run()
    next(part)
    part.close()
    assert_equal(finished(Training(recipe, data, tmp_path / "part.ckpt", Every(3, 100), workers=1)), whole)


KILLED = """
import sys
from pathlib import Path
from edgedeploy.models.training.loop import Every
from edgedeploy.models.training.runs import Run
from tests.support.training_runs import upscaling
recipe = upscaling(steps=int(sys.argv[3]))
run = Run(recipe, Path(sys.argv[1]), Path(sys.argv[2]), resume=True, every=Every(10, 1000))
for progress in run.train():
    print(progress.step, flush=True)
"""


@pytest.mark.parametrize(
    ("steps", "waits"), [(150, (0.1,)), pytest.param(400, (0.05, 0.35, 0.2), marks=pytest.mark.slow)]
)
def test_killed_at_random_moments_it_ends_in_the_same_weights(
    photographs: Path, tmp_path: Path, steps: int, waits: tuple[float, ...]
) -> None:
    *_, last = Run(upscaling(steps=steps), photographs, tmp_path / "whole", every=Every(10, 1000)).train()
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(photographs), str(out), str(steps)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # the order of sums depends on it
    for wait in waits:  # after the first report
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert_equal(load_file(out / "last.safetensors"), dict(last.network.state_dict()))
    assert (out / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_a_run_killed_between_its_log_and_its_checkpoint_logs_that_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, recipe, every = draw_streets(tmp_path / "data"), streets(steps=6), Every(2, 2)
    *_, last = Run(recipe, data, tmp_path / "whole", every=every).train()
    save = Training._save

    def killed(self: Training, optimizer: object) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        save(self, optimizer)

    monkeypatch.setattr(Training, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        list(Run(recipe, data, tmp_path / "part", every=every).train())
    assert "\n4," in (tmp_path / "part" / "log.csv").read_text(), "the log is written first"
    monkeypatch.undo()
    list(Run(recipe, data, tmp_path / "part", resume=True, every=every).train())
    for name in ("log.csv", "metrics.json"):
        assert (tmp_path / "part" / name).read_text() == (tmp_path / "whole" / name).read_text()
    kept = load_file(tmp_path / "part" / "last.safetensors")
    state = last.network.state_dict()
    assert_equal(kept, {name: state[name] for name in kept})


def test_averaged_weights_lag_behind_by_the_decay(photographs: Path, tmp_path: Path) -> None:
    path, before = tmp_path / "x.ckpt", None
    for _ in Training(upscaling(steps=5, ema=0.15), photographs, path, Every(1, 100)).run():
        state = torch.load(path, weights_only=True)
        now, average = (
            state["objective"]["network.first_part.0.weight"], state["average"]["first_part.0.weight"]
        )  # fmt: skip
        if before is not None:
            torch.testing.assert_close(average, 0.15 * before + 0.85 * now)
        before = average
    assert not torch.equal(now, average)
    loaded = load_weights("espcn_x2", path).state_dict()  # our checkpoints are weights, too
    assert torch.equal(loaded["first_part.0.weight"], average)


def test_checkpoint_of_another_recipe_is_refused(photographs: Path, tmp_path: Path) -> None:
    next(Training(upscaling(), photographs, tmp_path / "x.ckpt", Every(1, 100)).run())
    with pytest.raises(UsageError, match="another recipe"):
        Training(upscaling(seed=3), photographs, tmp_path / "x.ckpt")


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(
    photographs: Path, tmp_path: Path
) -> None:
    recipe = upscaling(optimizer={"name": "sgd", "learning_rate": 1e30}, schedule={"name": "constant"})
    with pytest.raises(TrainingError, match="before step"):
        list(Training(recipe, photographs, tmp_path / "x.ckpt", Every(20, 100)).run())
    assert not (tmp_path / "x.ckpt").exists()


def test_a_batch_that_processes_cannot_share_is_refused(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedeploy.models.training import loop

    monkeypatch.setattr(loop, "make_fabric", lambda _: type("Three", (), {"world_size": 3}))
    with pytest.raises(UsageError, match="a batch of 4 cannot be shared by 3"):
        Training(upscaling(), photographs, tmp_path / "x.ckpt")


def test_folder_without_pictures_is_named(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent has no image"):
        Training(upscaling({"folders": ("a", "absent")}), photographs, tmp_path / "x.ckpt")


def test_scale_that_the_model_does_not_have_is_named(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="espcn_x2 enlarges by 2"):
        Training(upscaling({"scale": 3}), photographs, tmp_path / "x.ckpt")


def test_run_leaves_its_files(tmp_path: Path) -> None:
    data = draw_streets(tmp_path / "data")
    run = Run(streets(), data, tmp_path / "run", every=Every(3, 3))
    reports = list(run.train())
    assert [report.step for report in reports] == [3, 6]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "recipe.yaml", "checkpoint.ckpt", "log.csv", "curves.png", "last.safetensors", "best.safetensors",
        "metrics.json", "sheet.png",
    }  # fmt: skip
    again = TrainingRecipe.load(tmp_path / "run" / "recipe.yaml")
    assert again.model_dump_json() == streets().model_dump_json()
    with pytest.raises(UsageError, match="holds a training"):
        Run(streets(), data, tmp_path / "run")
    # The weights need no option to be loaded: the file says how many classes they know, and their names.
    state = load_weights("ddrnet_23_slim", tmp_path / "run" / "last.safetensors").state_dict()
    assert state["final_layer.conv2.weight"].shape[0] == 11
    assert not any(key.startswith("seghead_extra") for key in state)
    # Another training goes on from them, with an auxiliary head that begins anew.
    last = str(tmp_path / "run" / "last.safetensors")
    begun = Training(streets(weights=last), data, tmp_path / "next.ckpt").network.state_dict()
    assert all(torch.equal(begun[key], value) for key, value in state.items())
    assert any(key.startswith("seghead_extra") for key in begun)
