"""Every plug-in folder holds plug-ins alone, and each enters its own name."""

from __future__ import annotations

from typing import Any

import pytest

from edgedeploy.backend import BACKENDS
from edgedeploy.calibration.calibrator import CALIBRATORS
from edgedeploy.calibration.correction import CORRECTIONS
from edgedeploy.calibration.lint.rule import LINT
from edgedeploy.core.errors import PluginError
from edgedeploy.core.registry import Registry
from edgedeploy.export.graph_pass import PASSES, GraphPass
from edgedeploy.export.order import default_passes
from edgedeploy.models.registry import MODELS
from edgedeploy.models.training.experiment import EXPERIMENTS
from edgedeploy.task import TASKS

REGISTRIES = (PASSES, CALIBRATORS, CORRECTIONS, LINT, MODELS, EXPERIMENTS, BACKENDS, TASKS)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_file_of_the_folder_is_a_plugin(registry: Registry[Any]) -> None:
    entries = registry.all()
    assert [entry.name for entry in entries] == registry.names()
    assert entries


def test_a_pass_after_an_unknown_pass_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = GraphPass(lambda _: 0, "wrong", 0.0, lambda _: [], phase="fold", after=("fold-batchnrm",))
    monkeypatch.setitem(PASSES._entries, "wrong", wrong)
    with pytest.raises(PluginError, match="names 'fold-batchnrm' in `after`") as caught:
        default_passes()
    assert "fold-batchnorm" in caught.value.hint
