"""Find the network to capture: a zoo name, a user's `pkg.module:factory`, or a file.

Pickles are refused, because loading one runs code from it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgedeploy.core.errors import ArtifactError, UsageError
from edgedeploy.models.registry import MODELS, ModelInfo

PICKLES = frozenset({".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".th"})


def is_file_source(source: str | Path) -> bool:
    """Whether a source is a file; raises UsageError for a pickle, ArtifactError for a missing file."""
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise UsageError(
            f"{path} is a pickle: opening one as a model would run code from it",
            "name the code, my.package:make_model, or save the network with torch.export.save as .pt2",
        )
    if path.suffix.lower() not in {".onnx", ".pt2"}:
        return False
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", "check the path; zoo models: edgedeploy models")
    return True


def make_network(source: str, options: Mapping[str, Any]) -> tuple[nn.Module, ModelInfo | None, str]:
    """(network, zoo entry or None, name) of a zoo model or a `pkg.module:factory`.

    The factory's module may lie in the current folder. Raises UsageError or UnknownNameError.
    """
    if ":" not in source:
        info = MODELS.get(source)
        return _call(info.build, source, options), info, source
    module_name, _, attribute = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot find {source}: {error}",
            "write it as package.module:function, importable from this folder",
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    network = _call(factory, source, options)
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{source} gave a {type(network).__name__}", "the factory must return a torch.nn.Module"
        )
    return network, None, attribute.rsplit(".", 1)[-1]


def input_shape(
    network: nn.Module, info: ModelInfo | None, height: int | None, width: int | None
) -> tuple[int, int, int, int]:
    """NCHW shape to export at: the requested size, else the model's own; raises UsageError for a misfit.

    Outside the zoo, the first convolution gives the channels.
    """
    if info is not None:
        batch, channels, own_height, own_width = info.input_shape
        shape = (batch, channels, height or own_height, width or own_width)
        multiple = info.size_multiple
        if info.fixed_size and shape[2:] != (own_height, own_width):
            raise UsageError(
                f"{info.name} takes {own_height} x {own_width} only, not {shape[2]} x {shape[3]}",
                "leave height and width out",
            )
        if shape[2] % multiple or shape[3] % multiple:
            near = " x ".join(str(max(multiple, round(size / multiple) * multiple)) for size in shape[2:])
            raise UsageError(
                f"a size of {shape[2]} x {shape[3]} does not fit: both must be multiples of {multiple}",
                f"the nearest that does is {near}",
            )
        return shape
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if height is None or width is None or first is None:
        raise UsageError(
            "the input shape of this network is not known",
            "give --size HxW (capture.height and capture.width); or bring it as .pt2 or .onnx",
        )
    return (1, first.in_channels, height, width)


def _call(factory: Any, source: str, options: Mapping[str, Any]) -> Any:
    try:
        return factory(**options)
    except TypeError as error:
        raise UsageError(
            f"{source} does not take these options: {error}", "leave the model options out"
        ) from error
