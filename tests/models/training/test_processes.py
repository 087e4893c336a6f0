"""Trainings that several processes share, against one process with the whole batch."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgedeploy.core.errors import UsageError
from edgedeploy.models import create_model
from edgedeploy.models.training.experiment import make_experiment
from edgedeploy.models.training.loop import Every, Training
from edgedeploy.models.training.processes import batches
from edgedeploy.models.training.runs import Run
from edgedeploy.models.training.synced_norm import synchronize
from tests.support.experiments import CASES, drawn
from tests.support.training_runs import draw_photographs, draw_streets, flat, plain, streets

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning_fabric")
ROOT = Path(__file__).resolve().parents[3]
TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]

SHARED = """
import sys
from pathlib import Path
from edgedeploy.models.training.loop import Every
from edgedeploy.models.training.runs import Run
from tests.support import training_runs
recipe = getattr(training_runs, sys.argv[3])()
for _ in Run(recipe, Path(sys.argv[1]), Path(sys.argv[2]), every=Every(4, 1000)).train():
    pass
"""


def by_two(arguments: list[str]) -> str:
    """What two processes, one thread each, print."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*TWO, *arguments], check=False, capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", [pytest.param("plain", marks=pytest.mark.slow), "flat"])
def test_two_processes_do_what_one_does(recipe: str, tmp_path: Path) -> None:
    """DDP over gloo, half a batch each; `flat` has batch norms, whose statistics are over both halves."""
    script = tmp_path / "script.py"
    script.write_text(SHARED)
    (tmp_path / "data").mkdir()
    data = (draw_photographs if recipe == "plain" else draw_streets)(tmp_path / "data")
    by_two([str(script), str(data), str(tmp_path / "two"), recipe])
    chosen = {"plain": plain, "flat": flat}[recipe]()
    *_, last = Run(chosen, data, tmp_path / "one", every=Every(4, 1000)).train()
    two, one = load_file(tmp_path / "two" / "last.safetensors"), last.network.state_dict()
    torch.manual_seed(chosen.seed)
    fresh = create_model(chosen.model, **chosen.options).state_dict()
    numbers = [key for key, value in two.items() if value.is_floating_point()]
    moved, apart = (
        sum(float((one[key] - other[key]).square().sum()) for key in numbers) for other in (fresh, two)
    )
    assert moved > 0
    assert apart < 1e-4 * moved  # squared; a fresh network with norms over 4 examples amplifies rounding


@pytest.mark.slow
def test_one_of_the_processes_speaks(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    recipe = tmp_path / "plain.yaml"
    recipe.write_text(plain().dump())
    data, out = draw_photographs(tmp_path / "data"), tmp_path / "run"
    said = by_two(["-m", "edgedeploy", "train", str(recipe), "--data", str(data), "-o", str(out), "--json"])
    assert json.loads(said)["folder"] == str(out)  # one document


def test_a_norm_of_one_process_is_the_ordinary_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ordinary = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(2), torch.nn.BatchNorm1d(3))
    synced = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(2), torch.nn.BatchNorm1d(3))
    for norm in (ordinary[0], synced[0]):
        torch.nn.init.constant_(norm.weight, 1.5)
        norm.momentum = 0.3
    synchronize(synced)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        for _ in range(3):
            x = torch.randn(4, 3, 5, 6) * 3 + 2
            inputs = [x.clone().requires_grad_() for _ in range(2)]
            outputs = [net(value) for net, value in zip((ordinary, synced), inputs, strict=True)]
            torch.testing.assert_close(*outputs)
            for output in outputs:
                (output**3).mean().backward()
            torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    finally:
        torch.distributed.destroy_process_group()
    for key, value in ordinary.state_dict().items():
        torch.testing.assert_close(synced.state_dict()[key], value)
    torch.testing.assert_close(synced.eval()(x), ordinary.eval()(x))
    with torch.no_grad():
        assert ordinary.state_dict().keys() == synced.state_dict().keys()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_data_is_said_by_whoever_prepares_examples(tmp_path: Path, workers: int) -> None:
    data = draw_streets(tmp_path / "data")
    (data / "train" / "3.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"3\.png") as caught:
        list(Training(streets(), data, tmp_path / "x.ckpt", workers=workers).run())
    assert "Traceback" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", CASES)
def test_experiments_travel_to_processes_that_are_spawned(name: str, tmp_path: Path) -> None:
    experiment = make_experiment(CASES[name].recipe(), drawn(name, tmp_path))
    copy = pickle.loads(pickle.dumps(experiment))  # noqa: S301
    (one,), (other,) = (batches(each, [2], [0, 1], 0) for each in (experiment, copy))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_single_example_that_cannot_be_normalized_is_told(tmp_path: Path) -> None:
    data = draw_streets(tmp_path / "data")
    with pytest.raises(UsageError, match="cannot normalize over 1 example") as caught:
        list(Training(streets(batch=1), data, tmp_path / "x.ckpt").run())
    assert "batch=2" in caught.value.hint
