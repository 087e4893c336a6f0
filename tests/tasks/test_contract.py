"""Every task by the same tests: a new task is tested here without another line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedeploy.backend import check_feed
from edgedeploy.core.errors import UsageError
from edgedeploy.task import TASKS, Task
from tests.support.tasks import task_on_images

# What the options of one task or another have to say; a task ignores the options of others.
OPTIONS = {"mean": [0.0] * 3, "std": [255.0] * 3, "scale": 2, "color": "rgb", "classes": 3, "stride": 1}


@pytest.fixture(params=TASKS.names())
def task(request: pytest.FixtureRequest) -> Task:
    created: Task = task_on_images(request.param, {"y": (1, 3, 32, 32)}, (32, 32), **OPTIONS)
    return created


@pytest.mark.parametrize("size", [(32, 32), (50, 41)])
def test_preprocess_makes_the_feed_that_the_input_asks_for(
    task: Task, size: tuple[int, int], rng: np.random.Generator
) -> None:
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    before = image.copy()
    feeds = task.preprocess(image)
    assert list(feeds) == ["image"]
    check_feed(task.input, feeds)
    assert np.isfinite(feeds["image"]).all()
    np.testing.assert_array_equal(image, before)


def test_equal_outputs_agree_and_others_agree_less(task: Task, rng: np.random.Generator) -> None:
    outputs = {"y": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)}
    assert task.agreement(outputs, outputs) == pytest.approx(1.0)
    assert task.agreement(outputs, {"y": -outputs["y"]}) < 0.9


def test_a_folder_without_data_is_refused_with_a_hint(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        task.evaluate(lambda _: {}, tmp_path)
    assert caught.value.hint
