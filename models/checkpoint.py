"""Put weights from a file into a network: bundled ones, or anybody's checkpoint.

A checkpoint comes from outside and is not trusted: every name, shape and type in it is accounted for. Other
implementations' names are translated by the model's `rename`.
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
    """A network with its weights, and what is known of them.

    Attributes:
        model: in eval mode.
        source: the file.
        sha256: of the file.
        unused: keys of the file that the network has no use for, e.g. those of a training-only head.
        info: of the network as it was built, e.g. with the classes that the weights know.
        fresh: keys of the network that the file does not fill, after `load_trunk` or `load_for_training`.
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
    """`load_checkpoint`, for the network alone; keys that were not used are logged as a warning."""
    loaded = load_checkpoint(model, source, **options)
    if loaded.unused:
        _log.warning("%s: not used: %s", loaded.source.name, _listing(loaded.unused))
    return loaded.model


def load_checkpoint(
    model: str | ModelInfo, source: str | Path | None = None, **options: Any
) -> LoadedWeights:
    """Build a network and fill it.

    Args:
        model: name in the zoo, or its description.
        source: name of bundled weights, or a .safetensors, .pth, .pt or .ckpt file; None for the default.
        options: for the network's builder, besides those that the file itself says it needs.

    Raises UnknownNameError for unknown weights, ArtifactError for a file that is damaged or holds anything
    but tensors, UsageError where names or shapes are not this network's.
    """
    return _load(_info(model), source, options)


def load_for_training(
    model: str | ModelInfo, source: str | Path | None = None, **options: Any
) -> LoadedWeights:
    """As `load_checkpoint`, for training to go on from weights made for inference.

    What only training needs, such as an auxiliary head, begins anew where the file has none of it; `fresh`
    names it.
    """
    info = _info(model)
    return _load(info, source, options, absent=info.training_only)


def load_trunk(model: str | ModelInfo, source: str | Path, **options: Any) -> LoadedWeights:
    """Build a network whose trunk is that of another one: a classifier, or a form without scale fusion.

    Args:
        model: name in the zoo, or its description; it says what a trunk does not bring (`heads`).
        source: a .safetensors, .pth, .pt or .ckpt file that holds the whole trunk.
        options: for the network's builder.

    `unused` then names the other network's own parts, `fresh` this one's. Raises as `load_checkpoint`.
    """
    info = _info(model)
    if not info.heads:
        able = ", ".join(name for name in MODELS.names() if MODELS.get(name).heads)
        raise UsageError(f"{info.name} has no trunk that is pretrained apart", f"models that have: {able}")
    return _load(info, source, options, fresh=info.heads, absent=info.training_only)


def describe(model: str | ModelInfo, source: str | Path) -> Description:
    """What bundled weights, or a file, say of the network that they are for; raises as `load_checkpoint`."""
    return read_description(_find(_info(model), source))


def convert_state_dict(model: str | ModelInfo, state: Mapping[str, Tensor]) -> State:
    """Names of another implementation, as listed in the model's `rename`, turned into ours; others stay."""
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
    fresh: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
) -> LoadedWeights:
    """Fill all of a network but the parameters whose names begin with one of `fresh`, or with one of `absent`
    where no name in the file does.
    """
    path = _find(info, source)
    said, found = read_description(path), read_state(path)
    strangers = bool(fresh)  # another network's file says nothing of this one
    if not strangers:
        options = {**said.options, **options}
    info.check_options(options)
    network, described = info.build(**options), info.variant(**options)
    if not strangers and said.task:
        described = described.for_task(said.task)
    if not strangers and said.labels and len(said.labels) == described.task.options.get("classes"):
        described = replace(described, labels=said.labels)
    own = network.state_dict()
    wanted = {key: value for key, value in own.items() if not key.startswith(fresh)}
    try:
        state, unused = _match(info, wanted, found, absent, strangers=strangers)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", error.hint) from None
    network.load_state_dict({**own, **state}, strict=True)
    untouched = tuple(key for key in own if key not in state)
    return LoadedWeights(network.eval(), path, sha256_file(path), unused, described, untouched)


def _match(
    info: ModelInfo,
    wanted: Mapping[str, Tensor],
    found: State,
    absent: tuple[str, ...],
    *,
    strangers: bool,
) -> tuple[State, tuple[str, ...]]:
    """The `wanted` state taken from `found`, and the keys left over; raises UsageError.

    Names that begin with one of `absent` are not wanted where `found` has none such. Leftovers must be known
    as training-only, unless `strangers` are let in.
    """
    candidates = (
        convert_state_dict(info, {k.removeprefix(p): v for k, v in found.items() if k.startswith(p)})
        for p in PREFIXES
    )
    prefix, named = max(
        zip(PREFIXES, candidates, strict=True), key=lambda pair: len(wanted.keys() & pair[1].keys())
    )
    gone = tuple(part for part in absent if not any(key.startswith(part) for key in named))
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
    strange = [k for k in left if not strangers and not k.startswith(info.training_only)]
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
        if info.default_weights not in names:
            known = f"name weights: {' or '.join(names)}" if names else "name a checkpoint file"
            raise UsageError(f"no weights of {info.name} are taken by default", known)
        source = info.default_weights
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
