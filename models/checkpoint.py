"""Load weights into a network: bundled ones, or any checkpoint.

Checkpoints are untrusted: every name, shape and dtype is checked. The model's `rename` translates names of
other implementations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgedeploy.core.errors import ArtifactError, UnknownNameError, UsageError
from edgedeploy.core.files import sha256_file
from edgedeploy.models.registry import MODELS, ModelInfo
from edgedeploy.models.state_file import Description, State, read_description, read_state

WEIGHTS = "edgedeploy.models.weights"
PREFIXES = ("", "module.", "model.", "model.module.", "module.model.")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedWeights:
    """A network with its weights.

    Attributes:
        model: in eval mode.
        source: the file.
        sha256: of the file.
        unused: keys of the file that the network lacks, e.g. those of a training-only head.
        info: of the network as built, e.g. with the classes of the weights.
        fresh: keys of the network that the file lacks, after `load_trunk` or `load_for_training`.
    """

    model: nn.Module
    source: Path
    sha256: str
    unused: tuple[str, ...]
    info: ModelInfo
    fresh: tuple[str, ...] = ()


def bundled_weights(model: str | ModelInfo) -> list[str]:
    """Names of the weights that come with the package for this model, the default first."""
    info = _info(model)
    prefix = f"{info.name}-"
    names = [
        entry.name.removeprefix(prefix).removesuffix(".safetensors")
        for entry in files(WEIGHTS).iterdir()
        if entry.name.startswith(prefix) and entry.name.endswith(".safetensors")
    ]
    return sorted(names, key=lambda name: (name != info.default_weights, name))


def load_weights(model: str | ModelInfo, source: str | Path | None = None, **options: Any) -> nn.Module:
    """The network of `load_checkpoint`; logs a warning that names unused keys."""
    loaded = load_checkpoint(model, source, **options)
    if loaded.unused:
        _log.warning("%s: not used: %s", loaded.source.name, _listing(loaded.unused))
    return loaded.model


def load_checkpoint(
    model: str | ModelInfo, source: str | Path | None = None, **options: Any
) -> LoadedWeights:
    """Build a network and load its weights.

    Args:
        model: name in the zoo, or its description.
        source: name of bundled weights, or a .safetensors, .pth, .pt or .ckpt file; None for the default.
        options: of the network's builder; they override those in the file.

    Raises UnknownNameError for unknown weights, ArtifactError for a file that is damaged or holds more than
    tensors, UsageError for names or shapes of another network.
    """
    return _load(_info(model), source, options)


def load_for_training(
    model: str | ModelInfo, source: str | Path | None = None, **options: Any
) -> LoadedWeights:
    """`load_checkpoint` for training. Parts of training that the file lacks, such as an auxiliary head, start
    fresh; `fresh` names them.
    """
    info = _info(model)
    return _load(info, source, options, optional=info.training_only)


def load_trunk(model: str | ModelInfo, source: str | Path, **options: Any) -> LoadedWeights:
    """Build a network with the trunk of another one: a classifier, or a form without scale fusion.

    Args:
        model: name in the zoo, or its description; its `heads` are not part of the trunk.
        source: a .safetensors, .pth, .pt or .ckpt file with the whole trunk.
        options: of the network's builder.

    `unused` names parts of the other network, `fresh` the heads of this one. Raises as `load_checkpoint`.
    """
    info = _info(model)
    if not info.heads:
        able = ", ".join(name for name in MODELS.names() if MODELS.get(name).heads)
        raise UsageError(
            f"{info.name} has no trunk that is pretrained apart", f"models that have one: {able}"
        )
    return _load(info, source, options, heads=info.heads, optional=info.training_only)


def describe(model: str | ModelInfo, source: str | Path) -> Description:
    """The description in bundled weights, or in a file; raises as `load_checkpoint`."""
    return read_description(_find(_info(model), source))


def convert_state_dict(model: str | ModelInfo, state: Mapping[str, Tensor]) -> State:
    """The state with the model's `rename` applied to the names."""
    converted: State = {}
    for key, value in state.items():
        for theirs, ours in _info(model).rename.items():
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
                break
        converted[key] = value
    return converted


def _load(
    info: ModelInfo,
    source: str | Path | None,
    options: Mapping[str, Any],
    *,
    heads: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> LoadedWeights:
    """Load a network without `heads`; parts `optional` that the file lacks stay fresh. Both are prefixes."""
    path = _find(info, source)
    description, found = read_description(path), read_state(path)
    foreign = bool(heads)  # the description in another network's file does not apply
    if not foreign:
        options = {**description.options, **options}
    info.check_options(options)
    network, described = info.build(**options), info.variant(**options)
    if not foreign and description.task:
        described = described.for_task(description.task)
    if (
        not foreign
        and description.labels
        and len(description.labels) == described.task.options.get("classes")
    ):
        described = replace(described, labels=description.labels)
    own = network.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(heads)}
    try:
        state, unused = _match(info, wanted, found, optional, foreign=foreign)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", error.hint) from None
    network.load_state_dict({**own, **state}, strict=True)
    untouched = tuple(key for key in own if key not in state)
    return LoadedWeights(network.eval(), path, sha256_file(path), unused, described, untouched)


def _match(
    info: ModelInfo,
    wanted: Mapping[str, Tensor],
    found: State,
    optional: tuple[str, ...],
    *,
    foreign: bool,
) -> tuple[State, tuple[str, ...]]:
    """The `wanted` state taken from `found`, and the remaining keys; raises UsageError.

    Prefixes `optional` may be absent from `found`. Remaining keys must be training-only, unless `foreign`.
    """
    candidates = (
        convert_state_dict(info, {k.removeprefix(p): v for k, v in found.items() if k.startswith(p)})
        for p in PREFIXES
    )
    prefix, named = max(
        zip(PREFIXES, candidates, strict=True), key=lambda pair: len(wanted.keys() & pair[1].keys())
    )
    gone = tuple(part for part in optional if not any(key.startswith(part) for key in named))
    wanted = {key: value for key, value in wanted.items() if not key.startswith(gone)}
    # PyTorch before 0.4.1 did not count batches, and inference does not either.
    missing = [k for k in wanted if k not in named and not k.endswith(".num_batches_tracked")]
    if missing:
        raise UsageError(f"has no {_listing(missing)} of {info.name}", _other_model(found))
    shapes = [
        f"{k} is {tuple(named[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in named and named[k].shape != v.shape
    ]
    if shapes:
        raise UsageError(f"does not fit {info.name}: {_listing(shapes)}", _other_model(found))
    state = {**wanted, **{k: v for k, v in named.items() if k in wanted}}
    for key, value in state.items():
        _check_values(key, value, wanted[key])
    left = [k for k in named if k not in wanted] + [k for k in found if not k.startswith(prefix)]
    strange = [k for k in left if not foreign and not k.startswith(info.training_only)]
    if strange:
        raise UsageError(f"has parameters that {info.name} lacks: {_listing(strange)}", _other_model(found))
    return state, tuple(left)


def _check_values(key: str, value: Tensor, wanted: Tensor) -> None:
    if value.is_floating_point() != wanted.is_floating_point() or value.is_complex():
        raise UsageError(f"{key} is {value.dtype}, not {wanted.dtype}", "save the weights as float32")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise UsageError(f"{key} holds NaN or infinite values", "take an earlier checkpoint of that training")


def _find(info: ModelInfo, source: str | Path | None) -> Path:
    names = bundled_weights(info)
    if source is None:
        if not names:
            raise UsageError(f"no weights of {info.name} are bundled", "name a checkpoint file")
        source = names[0]
    if str(source) in names:
        return Path(str(files(WEIGHTS).joinpath(f"{info.name}-{source}.safetensors")))
    path = Path(source)
    if path.is_file():
        return path
    if path.suffix or path.parent != Path():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ArtifactError(f"{path} {what}", f"bundled for {info.name}: {', '.join(names) or 'none'}")
    raise UnknownNameError(f"weights of {info.name}", str(source), names)


def _info(model: str | ModelInfo) -> ModelInfo:
    return model if isinstance(model, ModelInfo) else MODELS.get(model)


def _other_model(found: State) -> str:
    return f"is it of another model or variant? its {len(found)} keys begin with {', '.join(list(found)[:2])}"


def _listing(names: list[str] | tuple[str, ...], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
