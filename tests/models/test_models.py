"""The zoo: every registered model by the same tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgedeploy.core.errors import PluginError, UnknownNameError, UsageError
from edgedeploy.core.spec import TaskSpec
from edgedeploy.export.capture.sources import input_shape
from edgedeploy.models import MODELS, ModelInfo, create_model, register_model
from edgedeploy.models.count import count
from edgedeploy.task import TASKS
from tests.support.zoo import models_under_test, small_options

NAMES = models_under_test()


def small(name: str) -> tuple[ModelInfo, nn.Module]:
    """The description and network of a model, built for small images where that is fixed."""
    info = MODELS.get(name)
    options = small_options(info)
    return info.variant(**options), create_model(name, **options)


def small_input(info: ModelInfo, steps: tuple[int, int] = (8, 12)) -> torch.Tensor:
    """One seeded input of so many of the model's smallest steps each way, if it takes several sizes."""
    if info.fixed_size:
        return torch.rand(info.input_shape, generator=torch.Generator().manual_seed(0))
    if info.size_multiple >= 32:  # steps so large that a third of them shows as much
        steps = (max(1, steps[0] // 3), max(1, steps[1] // 3))
    size = [step * info.size_multiple if info.size_multiple > 1 else step * 4 + 1 for step in steps]
    return torch.rand(1, info.input_shape[1], *size, generator=torch.Generator().manual_seed(0))


def expected_shapes(info: ModelInfo, x: torch.Tensor) -> list[tuple[int, ...]]:
    """What the task's options promise of the outputs."""
    height, width, options = x.shape[2], x.shape[3], info.task.options
    if info.task.name == "classification":
        return [(1, options["classes"])]
    if info.task.name == "super-resolution":
        return [(1, info.input_shape[1], height * options["scale"], width * options["scale"])]
    if info.task.name in {"text-detection", "disc-cup"}:
        return [(1, options.get("classes", 1), height, width)]
    if info.task.name == "face-embedding":
        return [(1, options["embedding"])]
    assert info.task.name == "segmentation", f"say here what {info.task.name} promises"
    return [(1, options["classes"], height // options["stride"], width // options["stride"])]


def outputs_of(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_have_the_shape_and_number_that_the_description_promises(name: str) -> None:
    info, model = small(name)
    model.eval()
    for steps in ((8, 12),) if info.fixed_size else ((8, 12), (9, 7), (1, 3)):
        x = small_input(info, steps)
        outputs = outputs_of(model, x)
        assert [tuple(y.shape) for y in outputs] == expected_shapes(info, x)
        assert len(outputs) == len(info.outputs)
        assert all(bool(y.isfinite().all()) for y in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_description_is_whole(name: str) -> None:
    info = MODELS.get(name)
    assert info.name == name
    assert info.paper
    assert info.task.name in TASKS.names()
    assert len(info.task.options["mean"]) == len(info.task.options["std"]) == info.input_shape[1]
    assert not info.labels or len(info.labels) == info.task.options["classes"]
    assert all(size % info.size_multiple == 0 for size in info.input_shape[2:])


@pytest.mark.parametrize("name", NAMES)
def test_one_image_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    info, model = small(name)
    model.eval()
    x = small_input(info)
    alone, batched = outputs_of(model, x), outputs_of(model, torch.cat([x, torch.zeros_like(x)]))
    for one, two in zip(alone, batched, strict=True):
        assert (two[:1] - one).abs().max() <= 1e-4 * one.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_takes_part(name: str) -> None:
    info, model = small(name)
    model.train()
    # Several images, so that no channel of a pooled BatchNorm is constant over the batch.
    x = torch.cat([small_input(info) * k for k in (1, 2, 3)])
    y = model(x)
    (y**2).sum().backward()
    idle = {key for key, p in model.named_parameters() if p.grad is None}
    known = tuple(f".{last}" for last in info.idle)
    assert idle == {key for key, _ in model.named_parameters() if f".{key}".endswith(known)}


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS.get(name).fixed_size])
def test_a_network_of_fixed_size_says_so(name: str) -> None:
    info, model = small(name)
    side = info.input_shape[2]
    assert input_shape(model, info, None, None) == info.input_shape
    assert input_shape(model, info, *info.input_shape[2:]) == info.input_shape
    with pytest.raises(UsageError, match=f"takes {side} x "):
        input_shape(model, info, side * 2, None)


def test_unknown_model_names_the_closest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        create_model("ddrnet_23_slin")
    assert "ddrnet_23_slim" in caught.value.hint


def test_variant_of_other_classes_has_no_labels() -> None:
    info = MODELS.get("ddrnet_23_slim")
    assert len(info.labels) == 19
    other = info.variant(classes=11)
    assert other.task.options["classes"] == 11
    assert other.labels == ()
    x = small_input(info)
    assert outputs_of(create_model("ddrnet_23_slim", classes=11).eval(), x)[0].shape[1] == 11
    assert info.variant(augment=True) is info
    assert info.variant(classes=19) is info


def test_auxiliary_head_leaves_the_final_logits_alone() -> None:
    both = create_model("ddrnet_23_slim", augment=True).eval()
    alone = create_model("ddrnet_23_slim").eval()
    state = {k: v for k, v in both.state_dict().items() if not k.startswith("seghead_extra.")}
    alone.load_state_dict(state)
    x = small_input(MODELS.get("ddrnet_23_slim"))
    (final,), (first, extra) = outputs_of(alone, x), outputs_of(both, x)
    assert torch.equal(final, first)
    assert extra.shape == final.shape
    assert not torch.equal(extra, final)


def test_clamp_is_the_only_difference_between_the_two_espcn() -> None:
    free, clamped = create_model("espcn_x3").eval(), create_model("espcn_x3", clamp=True).eval()
    with torch.no_grad():
        for p in free.parameters():
            p.mul_(20)
    clamped.load_state_dict(free.state_dict())
    x = small_input(MODELS.get("espcn_x3"))
    (loose,), (tight,) = outputs_of(free, x), outputs_of(clamped, x)
    assert loose.min() < 0 or loose.max() > 1
    assert torch.equal(tight, loose.clamp(0, 1))


def test_count_of_a_small_network_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    net.append(nn.Conv2d(8, 8, 1, bias=False))
    counts = count(net, (1, 3, 16, 24))
    assert counts.params == 3 * 8 * 9 + 8 + 16 + 64
    assert counts.macs == (8 * 12) * (3 * 8 * 9 + 64)
    assert next(net.parameters()).device.type == "cpu"


def test_a_second_model_of_one_name_is_refused() -> None:
    register = register_model(input_shape=(1, 3, 8, 8), task=TaskSpec(), outputs=("y",), paper="none")

    def espcn_x2() -> nn.Module:
        return nn.Identity()

    with pytest.raises(
        PluginError, match=r"registers the model 'espcn_x2', which edgedeploy.models.zoo.espcn"
    ):
        register(espcn_x2)
