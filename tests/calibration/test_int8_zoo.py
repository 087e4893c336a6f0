"""INT8 of the zoo: clean by lint, built by TensorRT-RTX, and run right by OpenVINO and ONNX Runtime.

By default the smallest model of each kind, small and traced; `EDGEDEPLOY_ALL_MODELS=1` takes all, and
`python -m benchmarks.int8_zoo` all at full size through the whole pipeline (docs/int8_zoo.md).
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
import torch

from benchmarks.int8_zoo import problems, wrong
from benchmarks.int8_zoo_row import judge
from edgedeploy.export.capture.exporters import export_torchscript
from edgedeploy.export.runner import optimize
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.settle import settle
from tests.support.zoo import models_under_test, small_options

# TensorRT's placement is built, and run by OpenVINO, too; ONNX Runtime runs its own, and so does OpenVINO.
RULES = ("tensorrt", "openvino", "onnxruntime")
# Why TensorRT gets nothing: binary weights are computed from latent ones, and have an INT8 form of their own
# (`quantize-signs`), which calibrates nothing; or all layers are thin.
NOTHING = ("is not a constant", "too thin for INT8")


def smallest_of_each_kind() -> list[str]:
    names = models_under_test()
    if os.environ.get("EDGEDEPLOY_ALL_MODELS") == "1":
        return names
    with torch.device("meta"):
        size = {
            name: sum(
                p.numel() for p in MODELS.get(name).build(**small_options(MODELS.get(name))).parameters()
            )
            for name in names
        }
    families: dict[str, list[str]] = {}
    for name in names:
        module = MODELS.get(name).build.__module__.rpartition(".")[2]
        families.setdefault(module.partition("_")[0], []).append(name)
    return sorted(min(family, key=lambda name: size[name]) for family in families.values())


def folded(name: str) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """The model's graph after the passes, small and of fixed size, and inputs."""
    options = small_options(MODELS.get(name))
    info = MODELS.get(name).variant(**options)
    side = 64 if info.size_multiple <= 32 else info.size_multiple
    size = info.input_shape[2:] if info.fixed_size else (side, side)
    x = torch.rand(2, 1, info.input_shape[1], *size, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = reparameterize(settle(create_model(name, **options), x[0])).eval()
        model = export_torchscript(network, x[0], "image", info.outputs, 20, False)
    return optimize(model, verify=False).model, [{"image": one.numpy()} for one in x]


@pytest.mark.parametrize("name", smallest_of_each_kind())
def test_int8_is_clean_and_taken_by_the_runtimes_that_it_is_for(name: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    pytest.importorskip("openvino", reason="openvino is not installed")
    model, feeds = folded(name)
    for rules in RULES:
        result = judge(model, feeds, rules)
        if "nothing" in result:
            assert rules == "tensorrt"
            assert any(reason in result["nothing"] for reason in NOTHING)
            continue
        assert wrong(result) == [], rules
        assert result["int8"]


def test_what_is_wrong_is_told() -> None:
    """Of a row with each fault there can be."""
    row = {
        "model": "m",
        "failed": "",
        "rules": {
            "tensorrt": {
                "int8": 3,
                "float": 1,
                "findings": ["ED103 b: int32"],
                "engine": {"failed": "refused"},
            },
            "openvino": {"int8": 3, "float": 1, "findings": [], "openvino_db": 3.0},
            "onnxruntime": {"int8": 3, "float": 1, "findings": [], "onnxruntime_db": 60.0},
            "dla": {"nothing": "no operator can run in INT8"},
        },
    }
    assert problems(row) == [
        "tensorrt: ED103 b: int32",
        "tensorrt: TensorRT-RTX: refused",
        "openvino: openvino computes something else: 3.0 dB",
    ]
