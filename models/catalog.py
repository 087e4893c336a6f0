"""The zoo as a table: read from a record that needs no torch, or counted anew where the zoo has changed.

`python -m edgedeploy.models.catalog` writes the record, `catalog.json`. Counting builds every network and
takes ten seconds.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypedDict

FOLDER = Path(__file__).parent
RECORD = FOLDER / "catalog.json"


class Row(TypedDict):
    """One model.

    `input` is NxCxHxW; `macs` are multiply-accumulates at that size; `weights` are names of bundled weights.
    """

    name: str
    task: str
    input: str
    parameters: int
    macs: int
    weights: list[str]
    paper: str


def read_catalog() -> list[Row]:
    """All models by name; imports torch only where the record is missing or outdated."""
    try:
        record = json.loads(RECORD.read_text("utf-8"))
    except FileNotFoundError:
        record = {}
    rows: list[Row] = record["models"] if record.get("sources") == sources_digest() else count_models()
    return rows


def sources_digest() -> str:
    """SHA-256 of the zoo's source, its layers' source, and the names of bundled weights."""
    digest = hashlib.sha256()
    for folder in ("zoo", "layers"):
        for path in sorted((FOLDER / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes())
    digest.update(
        "\0".join(sorted(path.name for path in (FOLDER / "weights").glob("*.safetensors"))).encode()
    )
    return digest.hexdigest()


def count_models(*names: str) -> list[Row]:
    """Rows counted from the networks themselves, of all models or of those named."""
    from edgedeploy.models.checkpoint import bundled_weights
    from edgedeploy.models.count import count_built
    from edgedeploy.models.registry import MODELS

    rows: list[Row] = []
    for name in names or MODELS.names():
        info = MODELS.get(name)
        counts = count_built(info.build, info.input_shape)
        rows.append(
            {
                "name": name,
                "task": info.task.name,
                "input": "x".join(map(str, info.input_shape)),
                "parameters": counts.params,
                "macs": counts.macs,
                "weights": bundled_weights(name),
                "paper": info.paper,
            }
        )
    return rows


if __name__ == "__main__":
    content = {"sources": sources_digest(), "models": count_models()}
    RECORD.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
