"""Deploy form: the same function, nothing foldable left, never more parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations

from edgedeploy.models import MODELS, create_model
from edgedeploy.models.layers.norm import PRepBN, RepBN
from edgedeploy.models.reparam import Fusible, fold_batchnorm, reparameterize
from edgedeploy.models.settle import settle
from tests.support.zoo import models_under_test, small_options

RELATIVE = 1e-5  # of float32 networks
EXACT = 1e-12  # of the same folded and run in float64: what is left is algebra

NORMS = (
    _BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.LocalResponseNorm,
    nn.RMSNorm,
    RepBN,
    PRepBN,
)


def shake(model: nn.Module) -> nn.Module:
    """Statistics and affine terms as a training leaves them, not the ones and zeros of a new network."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.2, 2.0, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.3, generator=generator)
                nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    return model.eval()


def outputs_of(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, tuple) else (y,)


def difference(one: Tensor, two: Tensor) -> float:
    """Largest, relative to the largest value of `one`."""
    assert one.shape == two.shape
    assert one.abs().max() > 0
    return float((one - two).abs().max() / one.abs().max())


def assert_same(model: nn.Module, deployed: nn.Module, x: Tensor, relative: float = RELATIVE) -> None:
    for one, two in zip(outputs_of(model, x), outputs_of(deployed, x), strict=True):
        assert difference(one, two) <= relative


def foldable(model: nn.Module) -> list[str]:
    """BatchNorms whose input is a convolution that nobody else reads, found in the traced graph."""
    traced = fx.symbolic_trace(model)
    found = []
    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(traced.get_submodule(node.target), _BatchNorm):
            source: Any = node.args[0]
            if source.op == "call_module" and len(source.users) == 1:
                before = traced.get_submodule(source.target)
                if isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
                    found.append(node.target)
    return found


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", models_under_test())
def test_every_model_in_deploy_form(name: str) -> None:
    options = small_options(MODELS.get(name))
    info = MODELS.get(name).variant(**options)
    size = (64, 96) if info.size_multiple > 1 else (24, 36)
    if info.fixed_size:
        size = info.input_shape[2:]
    first, x = torch.rand(2, 2, info.input_shape[1], *size, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = settle(create_model(name, **options), first)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = reparameterize(model)
    assert_same(model, deployed, x)
    double = copy.deepcopy(model).double()
    assert_same(double, reparameterize(double), x.double(), EXACT)
    assert foldable(deployed) == []
    assert parameters(deployed) <= parameters(model)
    assert not any(isinstance(module, Fusible) for module in deployed.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not deployed.training


# Where a norm stays in the deploy form: after a sum or a pool, or with statistics of the input itself.
KEPT = {
    "ddrnet": ("spp.", "final_layer.0"),
    "bivit_deit": ("LayerNorm",),
    "bivit_swin": ("LayerNorm",),
}


@pytest.mark.parametrize("name", MODELS.names())
def test_no_norm_is_left_that_could_be_folded_and_no_parameter_is_added(name: str) -> None:
    """Of all models whatever their size: no numbers are needed for it."""
    # Binary weights alone are packed by their values.
    with torch.device("cpu" if name.startswith("bivit") else "meta"):
        model = create_model(name, **small_options(MODELS.get(name)))
        deployed = reparameterize(model)
    assert parameters(deployed) <= parameters(model)
    assert foldable(deployed) == []
    family = MODELS.get(name).build.__module__.rpartition(".")[2]
    norms = [(key, m) for key, m in deployed.named_modules() if isinstance(m, NORMS)]
    known = KEPT.get(family, ())
    assert [key for key, m in norms if not key.startswith(known) and type(m).__name__ not in known] == []


def test_ddrnet_keeps_only_the_batchnorms_that_follow_a_sum_or_a_pool() -> None:
    model = create_model("ddrnet_23_slim", augment=True)
    assert len(foldable(model.eval())) > 40  # the search above does find pairs where there are some
    kept = [name for name, m in reparameterize(shake(model)).named_modules() if isinstance(m, _BatchNorm)]
    assert all(name.startswith(("spp.", "final_layer.0", "seghead_extra.0")) for name in kept)
    assert len(kept) == 11 + 2


CONVOLUTIONS = [
    (nn.Conv2d(4, 6, 3, padding=1), 6),
    (nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), bias=False), 6),
    (nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4, padding_mode="reflect"), 8),
    (nn.ConvTranspose2d(4, 6, 2, stride=2), 6),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False), 6),
    (parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), 6),
]


@pytest.mark.parametrize(("conv", "channels"), CONVOLUTIONS)
@pytest.mark.parametrize("affine", [True, False])
def test_fold_of_one_pair(conv: nn.Module, channels: int, affine: bool) -> None:
    pair = shake(nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-3, affine=affine)))
    folded = fold_batchnorm(*pair)
    assert type(folded) in {nn.Conv2d, nn.ConvTranspose2d}
    assert_same(pair, folded, torch.rand(2, 4, 9, 7))
    assert_same(pair, reparameterize(pair), torch.rand(2, 4, 9, 7))


def test_half_precision_stays_half_precision() -> None:
    pair = shake(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))).half()
    assert {p.dtype for p in reparameterize(pair).parameters()} == {torch.float16}


def test_places_in_a_sequence_stay() -> None:
    model = shake(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    assert isinstance(reparameterize(model)[2], nn.ReLU)


class Doubler(nn.Conv2d):
    """A convolution of somebody's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Swapped(nn.Sequential):
    """A sequence that does not run in sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](self[1](x))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda _module, _args, output: output + 1)
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(Doubler(3, 3, 1), nn.BatchNorm2d(3)),
        lambda: Swapped(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
        hooked,
    ],
    ids=["own convolution", "own order", "no statistics", "not neighbors", "hook"],
)
def test_what_cannot_be_folded_exactly_is_left(build: Any) -> None:
    model = shake(build())
    deployed = reparameterize(model)
    assert any(isinstance(m, _BatchNorm) for m in deployed.modules())
    assert_same(model, deployed, torch.rand(2, 3, 5, 5))
    if type(model[0]) is Doubler:
        with pytest.raises(TypeError, match="cannot fold BatchNorm2d into Doubler"):
            fold_batchnorm(model[0], model[1])


def test_a_module_used_twice_is_deployed_once() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model = shake(nn.Sequential(block, nn.ReLU(), block))
    deployed = reparameterize(model)
    assert deployed[0] is deployed[2]
    assert parameters(deployed) <= parameters(model)
    assert_same(model, deployed, torch.rand(1, 3, 4, 4))


class Root(nn.Module):
    """The whole network offers a simpler form, whose parts still need folding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * 2 / 2

    def fuse(self) -> nn.Module:
        return nn.Sequential(self.conv, self.norm)


def test_the_root_is_fused_too_and_then_folded() -> None:
    model = shake(Root())
    deployed = reparameterize(model)
    assert not any(isinstance(m, _BatchNorm) for m in deployed.modules())
    assert_same(model, deployed, torch.rand(1, 3, 6, 6))


def test_a_fusible_module_used_twice_stays_one() -> None:
    block = Root()
    model = shake(nn.ModuleDict({"first": block, "second": block}))
    deployed = reparameterize(model)
    assert deployed["first"] is deployed["second"]
    assert parameters(deployed) <= parameters(model)


def test_fuse_must_return_a_new_module() -> None:
    class Lazy(nn.Identity):
        def fuse(self) -> nn.Module:
            return self

    with pytest.raises(TypeError, match="must return a new module"):
        reparameterize(nn.Sequential(Lazy()))
