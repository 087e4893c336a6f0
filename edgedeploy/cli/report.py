"""What a deployment says of itself: tables for people, documents for programs."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from edgedeploy.cli.console import file_title, print_table
from edgedeploy.core.spec import Artifact


def describe(artifact: Artifact) -> dict[str, Any]:
    """The artifact as JSON: all that travels inside it, its path, digest and size in bytes."""
    size = artifact.path.stat().st_size
    document: dict[str, Any] = json.loads(artifact.to_json())
    return {"path": str(artifact.path), "sha256": artifact.digest, "bytes": size, **document}


def print_passes(artifact: Artifact) -> None:
    """The history so far, and the nodes before and after."""
    rows = [
        (
            step.name,
            step.hits,
            f"{step.milliseconds:.0f}",
            "not measured" if step.error is None else f"{step.error:.1e}",
        )
        for step in artifact.history
    ]
    print_table(("step", "rewrites", "ms", "max error / max |y|"), rows, title=file_title(artifact))
    surgery = artifact.details.surgery
    if surgery.nodes_before:
        print_table(("nodes before", "nodes after"), [(surgery.nodes_before, surgery.nodes_after)])


def print_quantization(artifact: Artifact) -> None:
    """How much of the graph is INT8, and why the rest is not."""
    step = next((step for step in reversed(artifact.history) if step.name == "quantize"), None)
    if step is None:  # the recipe asked for a precision that needs no calibration
        print_table(("precision", "operators"), [(artifact.precision, "all")], title=file_title(artifact))
        return
    excluded = artifact.details.calibration.excluded
    rows = [("int8", step.hits, f"{step.options['method']}, {step.options['inputs']} inputs")]
    rows += [
        ("float", count, reason) for reason, count in Counter(node.reason for node in excluded).most_common()
    ]
    print_table(("precision", "operators", "why"), rows, title=file_title(artifact))
