"""A binary network against its real twin on this CPU, one interleaved run: `python -m benchmarks.binary`.

The twin has the same shapes and ordinary layers. Weights are random: good for time, not for more.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from edgedeploy.bench import bench
from edgedeploy.calibration.place.ruleset import load_rules
from edgedeploy.core.recipe import Recipe
from edgedeploy.core.spec import Artifact
from edgedeploy.core.target import load_target
from edgedeploy.export.capture.capture import capture
from edgedeploy.export.optimize import optimize_artifact
from edgedeploy.export.signs import quantize_signs
from edgedeploy.models import MODELS
from edgedeploy.models.layers.bivit import BinaryAttention, BinaryLinear

RECIPE = Recipe()


def exported(name: str, binary: bool, folder: Path) -> Artifact:
    """The network, or its real twin, after the default passes."""
    torch.manual_seed(0)
    info = MODELS.get(name)
    network = info.build().eval()
    for layer in network.modules():
        if isinstance(layer, BinaryLinear | BinaryAttention):
            layer.binary = binary
    out = folder / f"{name}{'' if binary else '.twin'}.onnx"
    return optimize_artifact(
        capture(network, RECIPE.capture, out, info=info, name=name), RECIPE.optimize, out
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bivit_deit_tiny", help="a BiViT of the zoo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, target = Path(place), load_target("cpu")
        twin, packed = (exported(arguments.model, binary, folder) for binary in (False, True))
        contestants = []
        for backend in target.backends:
            form = load_rules(target.rules(backend)).signs
            signs = quantize_signs(packed, form, RECIPE.optimize, folder / f"signs-{form}.onnx")
            if signs is None:
                raise SystemExit(f"{arguments.model} has no products of signs")
            contestants += [f"{a.path}@{backend}" for a in (twin, packed, signs)]
        print(f"bytes: twin {twin.path.stat().st_size:,}, packed {packed.path.stat().st_size:,}")
        report = bench(contestants, threads=arguments.threads, seconds=arguments.seconds)
        print(report.to_markdown())
        for start in range(0, len(contestants), 3):
            base, *others = report.results[start : start + 3]
            for what, result in zip(("packed, in float", "signs in INT8"), others, strict=True):
                print(f"{base.backend or contestants[start].rpartition('@')[2]}: {what} takes "
                      f"{result.p50_ms / base.p50_ms:.2f} x the time of the twin")  # fmt: skip


if __name__ == "__main__":
    main()
