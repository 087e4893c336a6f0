"""The folder of a run: results of a training, and the state to resume.

recipe.yaml          with all defaults                checkpoint.ckpt   the state to resume from
log.csv, curves.png  losses and metrics by step       sheet.png         inputs, predictions, truth
last.safetensors     the newest weights               best.safetensors  those of the best metric
metrics.json         the best metrics, and their step
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from edgedeploy.core.errors import UsageError
from edgedeploy.core.files import check_writable, replacing, write_bytes, write_text
from edgedeploy.models.state_file import Description, write_state
from edgedeploy.models.training.experiment import Experiment
from edgedeploy.models.training.loop import Every, Progress, Training
from edgedeploy.models.training.recipe import TrainingRecipe
from edgedeploy.vision.images import write_image

Note = Callable[[str], None]


class Run:
    """A training into a folder.

    Args:
        recipe, data, every, workers: as of `Training`.
        folder: made if absent.
        resume: continue from the checkpoint in the folder; otherwise such a folder is refused.

    Raises UsageError, OutputError, or the experiment's errors about the data.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        data: Path,
        folder: Path,
        *,
        resume: bool = False,
        every: Every | None = None,
        workers: int = 0,
    ) -> None:
        self.folder = folder
        checkpoint = folder / "checkpoint.ckpt"
        if checkpoint.exists() and not resume:
            raise UsageError(
                f"{folder} holds a training", "add --resume to continue it, or choose another --out"
            )
        check_writable(folder / "log.csv")
        self.training = Training(recipe, data, checkpoint, every, workers=workers)
        self.log = Log(folder / "log.csv", self.training.step)
        self.best = _read_best(folder / "metrics.json", self.training.step)

    @property
    def experiment(self) -> Experiment[Any]:
        return self.training.experiment

    def train(self) -> Iterator[Progress]:
        """Train to the end; the files of a report are written before it is yielded."""
        leading = self.training.fabric.is_global_zero
        if leading:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "recipe.yaml", self.training.recipe.dump())
        yield from self.training.run(self._keep if leading else None)
        if leading:
            self._pictures()
        self.training.close()

    def _keep(self, progress: Progress) -> None:
        if progress.losses:
            self.log.add(progress)
        self._write(progress.network, "last")
        value = progress.metrics.get(self.experiment.metric)
        if value is not None and value > self.best:
            self.best = value
            self._write(progress.network, "best")
            entry = {"step": progress.step, **progress.metrics}
            write_text(self.folder / "metrics.json", json.dumps(entry, indent=2) + "\n")

    def _write(self, network: nn.Module, name: str) -> None:
        write_state(self.folder / f"{name}.safetensors", *deployable(network, self.experiment))

    def _pictures(self) -> None:
        sheet = self.experiment.sheet(self.training.result.eval())
        if sheet is not None:
            with replacing(self.folder / "sheet.png") as temporary:
                write_image(temporary, sheet)
        with replacing(self.folder / "curves.png") as temporary:
            draw_curves(self.log.rows, temporary)


def deployable(network: nn.Module, experiment: Experiment[Any]) -> tuple[dict[str, Any], Description]:
    """The weights for inference, without heads of training, and their description."""
    info = experiment.info
    state = {k: v for k, v in network.state_dict().items() if not k.startswith(info.training_only or ("\0",))}
    options = {k: v for k, v in experiment.recipe.options.items() if k not in info.training_options}
    return state, Description(options, experiment.labels, experiment.recipe.task)


class Log:
    """Losses and metrics by step, a CSV that is rewritten at each step: a killed run leaves no partial line.

    Attributes:
        rows: of the file, oldest first, up to the step to resume from.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
            self.rows = [{**row, "step": int(row["step"])} for row in rows if row["step"] <= step]

    def add(self, progress: Progress) -> None:
        """One line: the step, its losses, its metrics."""
        self.rows.append({"step": progress.step, **progress.losses, **progress.metrics})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_bytes(self.path, text.getvalue().encode())


def draw_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Plot every column of a log over the steps."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(n for row in rows for n in row) if name != "step"]
    figure = Figure(figsize=(4 * max(1, min(3, len(names))), 3 * max(1, math.ceil(len(names) / 3))))
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(math.ceil(len(names) / 3), min(3, len(names)), place)
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "")
        axes.set_title(name)
        axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _read_best(path: Path, step: int) -> float:
    """The best metric so far; -inf without one up to the step to resume from."""
    if not path.exists():
        return -math.inf
    entry = json.loads(path.read_text(encoding="utf-8"))
    return -math.inf if entry["step"] > step else float(list(entry.values())[1])
