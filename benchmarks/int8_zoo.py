"""Every model of the zoo in INT8 by each rule set: `python -m benchmarks.int8_zoo`.

Writes docs/int8_zoo.md: operators in INT8, what lint finds, the engine of TensorRT-RTX, and how OpenVINO
and ONNX Runtime agree with the graph run as it is written. Resumable as `benchmarks.zoo` is: rows are kept
under a hash of the code. Exit code 1 where lint finds an error or a warning, or a runtime refuses or errs.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from textwrap import fill

from benchmarks.survey import ABSENT, Row, Survey

# A kernel that rounds ties otherwise differs by less than the first; in a deep network by as much as rounding
# itself does, but then it is no farther from the float model than the file is.
RUNTIME_DB, LOSS_DB = 20.0, 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    return SURVEY.main(__doc__, arguments)


def measure(name: str) -> Row:
    from benchmarks import int8_zoo_row

    return int8_zoo_row.measure(name)


def problems(row: Row) -> list[str]:
    """What is wrong with a row: findings, refusals, runtimes that compute something else."""
    found = [row["failed"]] if row["failed"] else []
    for rules, result in row.get("rules", {}).items():
        found += [f"{rules}: {text}" for text in wrong(result)]
    return found


def wrong(result: Row) -> list[str]:
    """What is wrong with one model by one rule set."""
    found = [result["failed"]] if "failed" in result else []
    found += result.get("findings", [])
    if "failed" in result.get("engine", {}):
        found.append(f"TensorRT-RTX: {result['engine']['failed'][:300]}")
    for runtime in ("openvino", "onnxruntime"):
        far = result.get(f"{runtime}_db", RUNTIME_DB) < RUNTIME_DB
        if far and not result.get(f"{runtime}_loss", LOSS_DB + 1) <= LOSS_DB:
            found.append(f"{runtime} computes something else: {result[f'{runtime}_db']} dB")
    return found


def document(rows: Sequence[Row], total: int) -> str:
    """The Markdown of docs/int8_zoo.md."""
    head = ("model", "tensorrt", "INT8 kernels", "tensorrt-11", "openvino", "OV dB", "onnxruntime", "ORT dB",
        "OpenVINO runs TensorRT's", "advice")  # fmt: skip
    table = [head, ("---",) * len(head), *(cells(row) for row in sorted(rows, key=lambda r: r["model"]))]
    lines = [f"| {' | '.join(line)} |" for line in table]
    used = ", ".join(f"{name} {found}" for name, found in SURVEY.versions().items())
    failures = [f"* `{row['model']}`: {text[:300]}" for row in rows for text in problems(row)]
    why = Counter(
        result["nothing"].partition("(")[2].rstrip(")")
        for row in rows
        for result in row.get("rules", {}).values()
        if "nothing" in result
    )
    made = f"made this page with {used}, Python {platform.python_version()}. "
    made += f"{len(rows)} of {total} models; of each:"
    return f"""# The zoo in INT8

    python -m benchmarks.int8_zoo

{fill(made, 110)}

* `tensorrt`, `tensorrt-11`, `openvino`, `onnxruntime`: operators in INT8, and weighted ones left in float, by
  that rule set of `calibration/rules`; all were linted for it (docs/lint.md): any error or warning stands
  below.
* `INT8 kernels`: convolutions of the engine that TensorRT-RTX builds of the file for SM86, by the types of
  what they read and write. An engine was built, and for want of a GPU not run.
* `OV dB`, `ORT dB`: SQNR of OpenVINO, and of ONNX Runtime with all its fusions, against the same file run as
  it is written. Deep networks of random weights amplify ties that are rounded otherwise: a runtime counts as
  wrong only below {RUNTIME_DB:.0f} dB and, besides, {LOSS_DB:.0f} dB farther from the float model than that.
* `OpenVINO runs TensorRT's`: the same of the `tensorrt` file in OpenVINO; `ED114` where lint says that a
  Concat has to be put into unsigned codes first, and that was done by its fix.
* `advice` that lint gives for `tensorrt`, which is no fault of the file.

Also linted and, for TensorRT, built, without a column: `tensorrt-10.3`, `tensorrt-rtx`, `onnxruntime-arm`.
Weights and inputs are random (`edgedeploy.models.settle`), and weights are rounded to the nearest: this is
about who takes the files, not about accuracy.

{chr(10).join(lines)}

## What is wrong

{chr(10).join(failures) or "Nothing."}

## Models without INT8

Where a cell says `none`, no operator runs in INT8 by that rule set:

{chr(10).join(f"* {count} times: {text}" for text, count in why.most_common()) or "None."}
"""


def cells(row: Row) -> tuple[str, ...]:
    rules = row.get("rules", {})

    def placed(name: str) -> str:
        result = rules.get(name, {})
        return (
            "none"
            if "nothing" in result
            else f"{result['int8']}, {result['float']}"
            if "int8" in result
            else "?"
        )

    def decibels(name: str, field: str) -> str:
        return str(rules.get(name, {}).get(field, ABSENT))

    ours = rules.get("tensorrt", {})
    kernels = ours.get("engine", {}).get("convolutions", {})
    return (
        f"`{row['model']}`",
        placed("tensorrt"),
        ", ".join(f"{kind} {count}" for kind, count in kernels.items() if kind.startswith("Int8")) or ABSENT,
        placed("tensorrt-11"),
        placed("openvino"),
        decibels("openvino", "openvino_db"),
        placed("onnxruntime"),
        decibels("onnxruntime", "onnxruntime_db"),
        " ".join([*ours.get("openvino", []), decibels("tensorrt", "openvino_db")]),
        ", ".join(ours.get("advice", {})) or ABSENT,
    )


SURVEY = Survey(
    "int8_zoo",
    ("models", "export", "calibration", "edgedeploy/core", "edgedeploy/steps", "edgedeploy/backends"),
    ("benchmarks/int8_zoo_row.py",),
    ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "tensorrt-rtx"),
    measure,
    problems,
    document,
)

if __name__ == "__main__":
    sys.exit(main())
