"""Run one simplifier of another project on one file: `python -m … TOOL IN OUT MEGABYTES`.

Runs in its own process with bounded memory, because some of these tools crash the process.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def run(tool: str, model: Any) -> Any:
    """The simplified model; raises whatever the tool raises."""
    library = importlib.import_module(tool)
    if tool == "onnxslim":
        return library.slim(model)
    if tool == "onnxsim":
        result, checked = library.simplify(model, check_n=0)
        if not checked:
            raise ValueError("it says itself that the result is not the same")
        return result
    safe = [name for name in library.get_fuse_and_elimination_passes() if name not in _NAME_CHANGING]
    return library.optimize(model, safe)


# Renames graph inputs.
_NAME_CHANGING = frozenset({"rename_input_output"})


def main(tool: str, source: str, out: str, megabytes: str) -> None:
    """Simplify `source` into `out` with limited memory."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(megabytes) << 20, int(megabytes) << 20))
    except (ImportError, ValueError):  # not on Windows; or a lower limit stands already
        pass
    import onnx

    onnx.save_model(run(tool, onnx.load_model(source)), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
