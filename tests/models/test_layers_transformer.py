"""Parts of transformers against brute force: folded norms, linear attention, windows and their masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgedeploy.core.errors import UsageError
from edgedeploy.models import MODELS, create_model
from edgedeploy.models.layers.linear_attention import KEY_SCALE, SimplifiedLinearAttention
from edgedeploy.models.layers.norm import (
    PRepBN,
    RepBN,
    fold_into_next,
    fold_into_previous,
    schedule_norms,
)
from edgedeploy.models.layers.transformer import DropPath
from edgedeploy.models.layers.window import WindowAttention, Windows
from edgedeploy.models.reparam import reparameterize
from edgedeploy.models.zoo.slab_deit import PatchEmbed
from edgedeploy.models.zoo.slab_pvt import ReducedAttention
from tests.support.zoo import models_under_test, small_options

SLAB = [name for name in models_under_test() if "slab" in name or "prepbn" in name]


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms as a training leaves them: shifted statistics, shortcuts of either sign, some of no effect."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, RepBN):
            bn = module.bn
            nn.init.normal_(bn.running_mean, 0.0, 0.3, generator=generator)
            nn.init.uniform_(bn.running_var, 0.5, 2.0, generator=generator)
            nn.init.normal_(bn.weight, 0.7, 0.3, generator=generator)
            nn.init.normal_(bn.bias, 0.0, 0.3, generator=generator)
            nn.init.normal_(module.alpha, 0.0, 0.5, generator=generator)
    return model.eval()


def near(one: Tensor, two: Tensor, relative: float = 1e-5) -> bool:
    return one.shape == two.shape and bool((one - two).abs().max() <= relative * one.abs().max())


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", [RepBN, PRepBN])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_folds_of_a_norm_into_linear_layers(norm: type[RepBN | PRepBN], bias: bool) -> None:
    before, after = trained(norm(6)), trained(norm(5), 1)
    layer, x = nn.Linear(6, 5, bias=bias), torch.randn(2, 7, 6)
    folded = fold_into_previous(fold_into_next(before, layer), after)
    assert near(after(layer(before(x))), folded(x))
    assert layer.bias is None or not torch.equal(layer.bias, folded.bias)
    assert fold_into_next(before, layer.half()).weight.dtype == torch.float16


@torch.no_grad()
def test_a_norm_whose_scale_is_zero_somewhere_folds_too() -> None:
    norm, layer, x = trained(RepBN(4)), nn.Linear(4, 3), torch.randn(2, 5, 4)
    norm.alpha.fill_(-float((norm.bn.weight * torch.rsqrt(norm.bn.running_var + norm.bn.eps))[1]))
    assert near(layer(norm(x)), fold_into_next(norm, layer)(x))


@torch.no_grad()
def test_the_patch_embedding_keeps_the_shortcut_of_its_bias() -> None:
    embed = trained(PatchEmbed(3, 8, 4, PRepBN(8)))
    x = torch.rand(2, 3, 16, 16)
    deployed = reparameterize(embed)
    assert near(embed(x), deployed(x))
    # The released merge leaves alpha times the bias out.
    conv = deployed[0]
    conv.bias -= embed.norm.norm2.alpha * embed.proj.bias
    assert not near(embed(x), deployed(x), 1e-3)


@torch.no_grad()
def test_norms_on_both_sides_of_a_reducing_convolution() -> None:
    attention = trained(ReducedAttention(12, 3, 8, 4))
    norm, x = trained(RepBN(12), 1), torch.randn(2, 64, 12)
    deployed = attention.absorb(norm)
    assert near(attention(norm(x)), deployed(x))
    assert not any(isinstance(m, RepBN) for m in deployed.modules())


def test_what_cannot_take_a_norm_before_it_is_refused() -> None:
    for conv in (nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 2, groups=2)):
        with pytest.raises(TypeError, match="padded or grouped"):
            fold_into_next(RepBN(4), conv)


@pytest.mark.parametrize("name", SLAB)
@torch.no_grad()
def test_no_norm_is_left_in_deploy_form(name: str) -> None:
    model = trained(create_model(name, **small_options(MODELS.get(name))))
    norms = (RepBN, PRepBN, nn.LayerNorm, nn.BatchNorm1d, DropPath)
    assert sum(isinstance(m, RepBN) for m in model.modules()) > 8
    deployed = reparameterize(model)
    assert not [key for key, m in deployed.named_modules() if isinstance(m, norms)]
    idle = tuple(f".{last}" for last in MODELS.get(name).idle)
    assert not [key for key, _ in deployed.named_parameters() if f".{key}".endswith(idle)]
    # In float64, where nothing but the algebra can differ; deploy weights are rounded to float32 before.
    side = MODELS.get(name).variant(**small_options(MODELS.get(name))).input_shape[2]
    x = torch.rand(2, 3, side, side).double()
    assert near(model.double()(x), deployed.double()(x), 2e-6)


@torch.no_grad()
def test_schedule_and_warm_up() -> None:
    norm = PRepBN(4, eps=1e-5)
    assert schedule_norms(nn.Sequential(norm, nn.Linear(4, 4)), steps=2, warm=1) == 1
    x = torch.randn(3, 5, 4) * 3 + 1
    norm.train()
    assert torch.equal(norm(x), norm.norm1(x))
    assert torch.equal(norm.norm2.bn.running_mean, torch.zeros(4))  # statistics stand still in warm-up
    assert torch.equal(norm(x), norm.norm1(x))  # the first step of the schedule is all layer norm
    assert norm.norm2.bn.running_mean.abs().min() > 0
    mean, half = norm.norm2.bn.running_mean.clone(), norm(x)
    assert near(half, (norm.norm1(x) + norm.norm2(x)) / 2)
    assert not torch.equal(norm.norm2.bn.running_mean, mean)
    assert torch.equal(norm(x), norm.norm2(x))
    with pytest.raises(ValueError, match="no schedule"):
        schedule_norms(norm, 0)


@pytest.mark.parametrize("grid", [(2, 2), (12, 9)])
@torch.no_grad()
def test_linear_attention_is_what_its_formula_says(grid: tuple[int, int]) -> None:
    """Token by token, head by head; few tokens and many take different orders of multiplication."""
    attention = SimplifiedLinearAttention(8, 2, grid).double()
    attention.positional_encoding.normal_()
    tokens = grid[0] * grid[1]
    assert attention.keys_first == (tokens > 4)
    x = torch.randn(2, tokens, 8).double()
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    q, k = q.relu(), (k + attention.positional_encoding).relu()
    joined = torch.empty_like(x)
    for image in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            weights = q[image, :, head] @ k[image, :, head].T
            values = v[image, :, head]
            local = attention.dwc(values.T.reshape(1, 4, *grid))[0].flatten(1).T
            joined[image, :, head] = weights @ values / (weights.sum(1, keepdim=True) + 1e-6) + local
    assert near(attention.proj(joined), attention(x), 1e-12)


@torch.no_grad()
def test_smaller_keys_change_nothing() -> None:
    attention, norm, x = SimplifiedLinearAttention(8, 2, (5, 5)), trained(RepBN(8)), torch.randn(2, 25, 8)
    attention.positional_encoding.normal_()
    deployed = attention.absorb(norm)
    assert deployed.eps == attention.eps * KEY_SCALE
    assert near(attention(norm(x)), deployed(x), 1e-6)
    assert (attention.eps, attention.positional_encoding.std() > 0.5) == (1e-6, True)


@pytest.mark.parametrize(
    "windows", [Windows(6, 3, 3, 1), Windows(8, 4, 4, 2), Windows(6, 6, 2), Windows(6, 3, 6)]
)
def test_windows_and_masks_by_walking_over_the_grid(windows: Windows) -> None:
    side, height, width, shift = windows.side, windows.height, windows.width, windows.shift
    x = torch.arange(side * side * 2, dtype=torch.float32).reshape(1, side * side, 2).repeat(2, 1, 1)
    x[1] += 1000
    cut = windows.split(x)
    grid = x.reshape(2, side, side, 2)
    place = 0
    mask = windows.mask()
    for image in range(2):
        for top in range(0, side, height):
            for left in range(0, side, width):
                inside = [(top + i, left + j) for i in range(height) for j in range(width)]
                moved = [((r + shift) % side, (c + shift) % side) for r, c in inside]
                assert torch.equal(cut[place], torch.stack([grid[image, r, c] for r, c in moved]))
                if mask is not None and image == 0:
                    # Tokens see each other where the walk between them does not leave the picture.
                    went = [(r + shift >= side, c + shift >= side) for r, c in inside]
                    seen = torch.tensor([[a == b for b in went] for a in went])
                    assert torch.equal(mask[place] == 0, seen)
                place += 1
    assert torch.equal(windows.join(cut), x)


@torch.no_grad()
def test_window_attention_by_pairs_of_tokens() -> None:
    attention = WindowAttention(6, 2, 3).double()
    attention.relative_position_bias_table.normal_()
    mask = Windows(6, 3, 3, 1).mask()
    assert mask is not None
    x = torch.randn(4, 9, 6).double()
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    joined = torch.empty_like(x)
    for window in range(4):
        for head in range(2):
            part = slice(head * 3, head * 3 + 3)
            logits = q[window, :, part] @ k[window, :, part].T / 3**0.5 + mask[window]
            for i in range(9):
                for j in range(9):
                    row = (i // 3 - j // 3 + 2) * 5 + i % 3 - j % 3 + 2
                    logits[i, j] += attention.relative_position_bias_table[row, head]
            joined[window, :, part] = logits.softmax(-1) @ v[window, :, part]
    assert near(attention.proj(joined), attention(x, mask.double()), 1e-12)


def test_drop_path_leaves_whole_branches_out_and_keeps_the_mean() -> None:
    x = torch.ones(4000, 2, 3)
    y = DropPath(0.25).train()(x)
    assert ((y == 0) | torch.isclose(y, torch.tensor(1 / 0.75))).all()
    assert torch.equal(y[:, 0, 0], y[:, 1, 2])
    assert y.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(x), x)


@pytest.mark.parametrize(
    ("name", "size"),
    [("slab_deit_tiny", 100), ("slab_pvt_tiny", 48), ("slab_cswin_tiny", 128), ("swin_tiny_prepbn", 96)],
)
def test_image_sizes_that_do_not_fit_are_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=r"cannot be built for|do not tile"):
        create_model(name, image_size=size)
