"""Every model of the zoo through capture, passes, fp16 and TensorRT-RTX: `python -m benchmarks.zoo`.

Writes docs/zoo.md. Each model runs in a process of its own, smallest first; its row is kept in a file of JSON
lines under a hash of the code and the versions of the libraries, so that a run that was stopped goes on, and
nothing stale is printed. Exit code 1 where a model fails on the way or errs by more than it may.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from textwrap import fill

from benchmarks.survey import ABSENT, Row, Survey

FP32_LIMIT, FP16_LIMIT = 1e-4, 1e-2
MESSAGE = 300  # characters of a refusal in the document


def main(arguments: Sequence[str] | None = None) -> int:
    return SURVEY.main(__doc__, arguments)


def measure(name: str) -> Row:
    from benchmarks import zoo_row

    return zoo_row.measure(name)


def problems(row: Row) -> list[str]:
    """What is wrong with a row, engines that are refused included."""
    found = [row["failed"]] if row["failed"] else []
    for field, limit in (("error_fp32", FP32_LIMIT), ("error_fp16", FP16_LIMIT)):
        if field in row and not row[field] <= limit:  # NaN is wrong too
            found.append(f"{field} is {row[field]:.1e}, more than {limit:.0e}")
    found += [note for note in row.get("notes", []) if "reverted" in note or "stays" in note]
    engines = row.get("engines", {})
    found += [f"{label}: {engine['failed']}" for label, engine in engines.items() if "failed" in engine]
    return found


def document(rows: Sequence[Row], total: int) -> str:
    """The Markdown of docs/zoo.md."""
    head = (
        "model", "input", "params", "deploy form", "GMACs", "nodes", "norms left",
        "fp32 error", "fp16 error", "SM86", "SM120",
    )  # fmt: skip
    table = [head, ("---",) * len(head), *(_cells(row) for row in sorted(rows, key=lambda r: r["model"]))]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    used = ", ".join(f"{name} {found}" for name, found in SURVEY.versions().items())
    made = f"made this page with {used}, Python {platform.python_version()}. "
    made += f"{len(rows)} of {total} models; of each:"
    return f"""# The zoo, measured

    python -m benchmarks.zoo

{fill(made, 110)}

* `params` of the network as trained and of its deploy form; `GMACs` as trained, at the input size given
  (`edgedeploy.models.count`). Packed binary weights of BiViT are buffers, which are no parameters; what makes
  the kernels of TVConv runs in training only.
* `nodes` of the ONNX graph as captured and after the passes, each proved in ONNX Runtime as it ran.
* `norms left` after the passes, see below for why.
* `fp32 error`: the folded graph in ONNX Runtime against the training form in PyTorch, largest difference
  relative to the output's largest value, on two inputs; at most {FP32_LIMIT:.0e}.
* `fp16 error`: the same of the graph lowered for TensorRT-RTX; at most {FP16_LIMIT:.0e}. Weights and borders
  are rounded; in between ONNX Runtime adds up in float32 on a CPU.
* `SM86`, `SM120`: kernels of the fp16 engine that TensorRT-RTX builds for these compute capabilities, and its
  size; or `refused`, see below. An engine was built, and for want of a GPU not run.

Weights are random with the statistics of a trained network (`edgedeploy.models.settle`), saved and loaded as
a checkpoint.

{chr(10).join(lines)}

## Norms that stay

{_norms(rows)}

## What fails

{_failures(rows)}
"""


def _cells(row: Row) -> tuple[str, ...]:
    def engine(label: str) -> str:
        found = row.get("engines", {}).get(label)
        if found is None:
            return ABSENT
        return (
            "refused" if "failed" in found else f"{found.get('kernels', '?')}, {found['bytes'] / 1e6:.1f} MB"
        )

    def figure(field: str, form: str) -> str:
        return format(row[field], form) if field in row else ABSENT

    return (
        f"`{row['model']}`",
        "x".join(map(str, row.get("input", []))) or ABSENT,
        figure("params", ","),
        figure("params_deploy", ","),
        f"{row['macs'] / 1e9:.3f}" if "macs" in row else ABSENT,
        " → ".join(map(str, row.get("nodes", []))) or ABSENT,
        str(sum(row["norms"].values())) if "norms" in row else ABSENT,
        figure("error_fp32", ".1e"),
        figure("error_fp16", ".1e"),
        engine("sm86"),
        engine("sm120"),
    )


def _norms(rows: Sequence[Row]) -> str:
    why: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: r["model"]):
        for reason, number in row.get("norms", {}).items():
            why.setdefault(reason, []).append(f"`{row['model']}` {number}")
    return "\n".join(f"* {reason}: {', '.join(models)}." for reason, models in sorted(why.items())) or "None."


def _failures(rows: Sequence[Row]) -> str:
    said = [(row["model"], text) for row in sorted(rows, key=lambda r: r["model"]) for text in problems(row)]
    return "\n".join(f"* `{model}`: {text[:MESSAGE]}" for model, text in said) or "Nothing."


SURVEY = Survey(
    "zoo",
    ("models", "export", "edgedeploy/core", "edgedeploy/steps", "edgedeploy/backends", "edgedeploy/targets"),
    ("edgedeploy/pipeline.py", "benchmarks/zoo_row.py"),
    ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "numpy", "tensorrt-rtx"),
    measure,
    problems,
    document,
)

if __name__ == "__main__":
    sys.exit(main())
