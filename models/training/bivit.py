"""Cross-layer binarization of a trained real network: attention first, the MLPs later.

According to the paper, binarizing both at once makes each disturb the other; it starts from a pretrained
network. Its code has neither order nor lengths: the two stages here, attention first, are our choice. He et
al., BiViT: Extremely Compressed Binary Vision Transformers, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models.layers.bivit import BinaryAttention, BinaryLinear, BinaryMlp


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes:
        share: of all steps.
        attention, mlp: whether each is binary.
    """

    share: float
    attention: bool
    mlp: bool


TWO_STAGES = (Stage(0.5, attention=True, mlp=False), Stage(0.5, attention=True, mlp=True))


def set_binary(model: nn.Module, *, attention: bool, mlp: bool) -> None:
    """Make the attention and the MLPs of `model` binary or real.

    Layers that become binary reset their learned scales from the real weights.
    """
    for part in model.modules():
        if not isinstance(part, BinaryAttention | BinaryMlp):
            continue
        wanted = attention if isinstance(part, BinaryAttention) else mlp
        if isinstance(part, BinaryAttention):
            part.binary = wanted
        for layer in part.children():
            if isinstance(layer, BinaryLinear):
                if wanted and not layer.binary:
                    layer.reset_scales()
                layer.binary = wanted


def stage_at(step: int, steps: int, stages: Sequence[Stage] = TWO_STAGES) -> Stage:
    """The stage of a step, 0 to steps - 1; raises UsageError where shares do not add up to 1."""
    total = sum(stage.share for stage in stages)
    if not stages or abs(total - 1) > 1e-6:
        raise UsageError(f"the stages take {total:g} of the steps", "make their shares add up to 1")
    end = 0.0
    for stage in stages:
        end += stage.share
        if step < end * steps - 1e-6:
            return stage
    return stages[-1]


def enter_stage(model: nn.Module, step: int, steps: int, stages: Sequence[Stage]) -> None:
    """Set `model` to the stage of this step.

    The stage of the previous step comes first: a network resumed between two stages is built binary, and must
    reset its scales like an uninterrupted one.
    """
    for here in (max(0, step - 1), step):
        stage = stage_at(here, steps, stages)
        set_binary(model, attention=stage.attention, mlp=stage.mlp)


def is_binary(model: nn.Module) -> bool:
    """Whether `model` has binary layers."""
    return any(isinstance(part, BinaryAttention | BinaryMlp) for part in model.modules())


@contextmanager
def always_binary(model: nn.Module) -> Iterator[None]:
    """In this block `model` is all binary, as when built from a file of its weights, at any stage."""
    parts: list[Any] = [m for m in model.modules() if isinstance(m, BinaryAttention | BinaryLinear)]
    before = [part.binary for part in parts]
    for part in parts:
        part.binary = True
    try:
        yield
    finally:
        for part, binary in zip(parts, before, strict=True):
            part.binary = binary


def start_from_real(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load a real network's parameters of the same names; scales come from the weights.

    Returns unused names of `state`. Raises UsageError for missing ones.
    """
    result = model.load_state_dict(dict(state), strict=False)
    missing = [key for key in result.missing_keys if not key.endswith(".scaling_factor")]
    if missing:
        raise UsageError(f"the real network has no {', '.join(missing[:4])}", "is it of another variant?")
    for layer in model.modules():
        if isinstance(layer, BinaryLinear):
            layer.reset_scales()
    return tuple(result.unexpected_keys)
