"""Tensors by name from untrusted weights files.

Reading executes nothing: safetensors, or PyTorch's weights-only reader. Compressed archives are refused.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from edgedeploy.core.errors import ArtifactError, first_line
from edgedeploy.core.files import write_bytes

State = dict[str, Tensor]

PICKLE_SUFFIXES = {".pth", ".pt", ".ckpt", ".th", ".bin"}
# Keys of the weights in a checkpoint; "result" holds the result of our own training at that step.
WRAPPERS = ("result", "state_dict", "model_state_dict", "model", "net")

METADATA = "edgedeploy"  # key in a safetensors header


@dataclass(frozen=True)
class Description:
    """Metadata of a safetensors file of ours: the network of its weights.

    Attributes:
        options: of the builder, e.g. {"classes": 11}.
        labels: class names in index order, or empty.
        task: options of the task that the weights are for, e.g. {"short_side": 512}.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    task: Mapping[str, Any] = field(default_factory=dict)


def write_state(path: Path, state: Mapping[str, Tensor], description: Description) -> None:
    """Write a safetensors file with its description, atomically; raises OutputError."""
    fields = {"options": dict(description.options), "labels": list(description.labels)}
    text = json.dumps({**fields, "task": dict(description.task)} if description.task else fields)
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    write_bytes(path, save(tensors, metadata={METADATA: text}))


def read_description(path: Path) -> Description:
    """The description in the file; empty for files of other origin. Raises ArtifactError."""
    if path.suffix != ".safetensors":
        return Description()
    try:
        with safe_open(path, "pt") as opened:
            text = (opened.metadata() or {}).get(METADATA)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "safetensors file", error) from None
    if text is None:
        return Description()
    try:
        content = json.loads(text)
        options, labels = dict(content["options"]), tuple(map(str, content["labels"]))
        task = dict(content.get("task", {}))
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path}: its description is damaged: {error}", "save it again") from None
    return Description(options, labels, task)


def read_state(path: Path) -> State:
    """Tensors by name, without an outer {"state_dict": ...}; raises ArtifactError."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, "safetensors file", error) from None
    if path.suffix not in PICKLE_SUFFIXES:
        raise ArtifactError(
            f"{path}: weights come as .safetensors, {', '.join(sorted(PICKLE_SUFFIXES))}",
            "save model.state_dict() with safetensors.torch.save_file",
        )
    try:
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "would run code when read" if "GLOBAL" in str(error) else "cannot be read without running code"
        raise ArtifactError(
            f"{path} holds more than tensors: it {why}",
            "where you trust it, load it there and save model.state_dict() alone",
        ) from None
    except ArtifactError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged file may fail anywhere in the reader
        raise _damaged(path, "PyTorch checkpoint", first_line(error)) from None
    return _unwrap(path, content)


def _damaged(path: Path, kind: str, error: object) -> ArtifactError:
    return ArtifactError(f"{path} is not a whole {kind}: {error}", "download or save it again")


def _unwrap(path: Path, content: Any) -> State:
    for _ in range(2):
        if isinstance(content, Mapping):
            content = next((content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)), content)
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    raise ArtifactError(
        f"{path} holds no state dict", "save model.state_dict(), alone or as {'state_dict': ...}"
    )


def _refuse_compressed(path: Path) -> None:
    """Raise ArtifactError for a compressed record: torch.save writes none, and it could be a zip bomb."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ArtifactError(
                    f"{path} is a compressed archive, not a PyTorch checkpoint", "unpack it first"
                )
