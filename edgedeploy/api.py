"""The Python API: the verbs of the command line as functions, also as `edgedeploy.<verb>`.

    artifact = edgedeploy.export("espcn_x3", "espcn_x3.onnx")
    artifact = edgedeploy.build(artifact.path, "cpu", "espcn_x3.cpu.onnx")
    with edgedeploy.load(artifact.path) as session:
        outputs = session({"image": image})

A function raises the errors of `edgedeploy.core.errors`, and prints nothing; see docs/api.md.
"""

from edgedeploy.verbs.deploy import build, export, quantize
from edgedeploy.verbs.lint import LintReport, lint
from edgedeploy.verbs.measure import Scores, bench, evaluate, load
from edgedeploy.verbs.optimize import Optimized, optimize

__all__ = [
    "LintReport",
    "Optimized",
    "Scores",
    "bench",
    "build",
    "evaluate",
    "export",
    "lint",
    "load",
    "optimize",
    "quantize",
]
