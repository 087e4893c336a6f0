"""One simplifier in a process of its own; requests and answers are lines of JSON.

Runs in the interpreter in which that tool is installed, so it imports nothing of this project by itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def make(tool: str) -> Callable[[Any], Any]:
    """The tool as a function from model to model, imported."""
    if tool == "OnnxSlim":
        import onnxslim

        return lambda model: onnxslim.slim(model)
    if tool == "onnxsim":
        import onnxsim

        return lambda model: onnxsim.simplify(model)[0]
    if tool == "onnxoptimizer":
        import onnxoptimizer

        passes = onnxoptimizer.get_fuse_and_elimination_passes()
        return lambda model: onnxoptimizer.optimize(model, passes)
    if tool == "onnxscript":
        from onnxscript import optimizer

        return lambda model: optimizer.optimize(model)
    from edgedeploy.export.runner import optimize

    return lambda model: optimize(model, verify=tool == "edgedeploy, proved").model


def main(tool: str) -> None:
    """Answer requests {"source", "out", "runs"} until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # the tools print
    import onnx

    run = make(tool)
    for line in sys.stdin:
        request, seconds, error = json.loads(line), 0.0, ""
        try:
            times = []
            for _ in range(request["runs"]):
                model = onnx.load(request["source"])
                begin = time.perf_counter()
                result = run(model)
                times.append(time.perf_counter() - begin)
            seconds = min(times)
            onnx.save(result, request["out"])
        except Exception as failure:  # noqa: BLE001  any failure of theirs is a row of the table
            error = f"{type(failure).__name__}: {failure}".splitlines()[0][:200]
        answers.write(json.dumps({"seconds": seconds, "error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
