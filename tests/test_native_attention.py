"""The attention rooms' CUDA kernels, on the emulated device, against the definitions."""

import pytest
import torch
from feature_checks import noise
from native import attention_runs as runs

from kdfast.ops.attention_map_kl import attention_map_kl_reference
from kdfast.ops.attention_masks import attention_masks_reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}
LAYOUTS = {
    "maps": lambda x: x,
    "channels last": lambda x: x.mT.contiguous().mT,
    "apart": lambda x: torch.cat([x, x], 2)[..., ::2],
}
# B, d, N, L, M: around a tile of 64 (32 in float64), chunks of 16 to 128 channels.
SHAPES = ((1, 1, 1, 1, 1), (2, 9, 35, 20, 3), (1, 19, 33, 66, 19), (1, 33, 65, 64, 40), (1, 130, 8, 9, 2))


def agree(ours, expected, dtype):
    assert not ours.isnan().any()
    atol = ROUNDING[dtype] * float(expected.abs().max()) + 1e-12
    torch.testing.assert_close(ours.double(), expected.double(), rtol=ROUNDING[dtype], atol=atol)


def inputs(shape, dtype, layout="maps"):
    batch, width, queries, keys, masks = shape
    sizes = ((batch, width, queries), (batch, width, keys), (batch, masks, keys))
    return [LAYOUTS[layout](noise(size, dtype, seed)) for seed, size in enumerate(sizes)]


def check(native, x, **options):
    """Results and gradients against float64."""
    dtype = x[0].dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = [t.double().clone().requires_grad_() for t in x]
    expected = attention_masks_reference(*leaves, **options)
    ups = [noise(t.shape, wide, 7 + i) for i, t in enumerate(expected)]
    grads = torch.autograd.grad(expected, leaves, [u.double() for u in ups])
    out, mean, lse = runs.attention_masks(native, *x, **options)
    agree(out, expected[0].detach(), wide), agree(mean, expected[1].detach(), wide)
    ours = runs.attention_masks_backward(native, *ups, out, lse, x, **options)
    for grad, truth in zip(ours, grads, strict=True):
        agree(grad, truth, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_shapes(native, dtype, shape):
    check(native, inputs(shape, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts_and_dtypes(native, dtype, layout):
    native.set_device(order="shuffled", seed=1)
    check(native, inputs((1, 5, 20, 18, 3), dtype, layout), scale=0.7)


def test_masks(native):
    x = inputs((3, 6, 21, 18, 4), torch.float32)
    query_mask = torch.arange(21).remainder(3).ne(1).expand(3, 21).contiguous()
    key_mask = torch.arange(18).remainder(4).ne(2).repeat(3, 1)
    key_mask[2] = False
    check(native, x, query_mask=query_mask, key_mask=key_mask)
    x[0].masked_fill_(~query_mask.unsqueeze(1), torch.nan)
    for t in x[1:]:
        t.masked_fill_(~key_mask.unsqueeze(1), torch.nan)
    out, mean, _ = runs.attention_masks(native, *x, query_mask=query_mask, key_mask=key_mask)
    assert not out.isnan().any() and not mean.isnan().any()


def map_inputs(shape, dtype, layout="maps"):
    batch, rows, keys, width, wide = shape
    sizes = ((batch, rows, width), (batch, keys, width), (batch, rows, wide), (batch, keys, wide))
    return [LAYOUTS[layout](noise(size, dtype, seed)) for seed, size in enumerate(sizes)]


def check_map(native, x, **options):
    """Values and gradients against float64."""
    dtype = x[0].dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.linspace(0.5, 2, x[0][..., 0].numel(), dtype=wide).reshape(x[0].shape[:2])
    if "query_mask" in options:
        factor = factor * options["query_mask"]
    if "key_mask" in options:
        factor = factor * options["key_mask"].any(1, keepdim=True)
    mask = options.get("query_mask")
    leaves = [t.double().clone().requires_grad_() for t in x]
    expected = attention_map_kl_reference(
        *leaves, key_mask=options.get("key_mask"), mask=mask, reduction="none"
    )
    grads = torch.autograd.grad((expected * factor.double()).sum(), leaves[:2])
    value, *ours = runs.attention_map_kl(native, *x, factor, **options)
    agree(value, expected.detach(), wide)
    for grad, truth in zip(ours, grads, strict=True):
        agree(grad, truth, dtype)
    alone, *_ = runs.attention_map_kl(native, *x, factor, with_grad=False, **options)
    assert torch.equal(alone, value)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (2, 9, 20, 5, 7), (1, 66, 33, 40, 8), (1, 33, 65, 70, 3)], ids=str
)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_map_kl_shapes(native, dtype, shape):
    check_map(native, map_inputs(shape, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_map_kl_layouts_and_halves(native, dtype, layout):
    native.set_device(order="shuffled", seed=1)
    check_map(native, map_inputs((1, 20, 18, 5, 6), dtype, layout))


def test_map_kl_masks(native):
    x = map_inputs((2, 21, 18, 6, 4), torch.float32)
    query_mask = torch.arange(21).remainder(3).ne(1).expand(2, 21).contiguous()
    key_mask = torch.arange(18).remainder(4).ne(2).repeat(2, 1)
    key_mask[1] = False
    check_map(native, x, query_mask=query_mask, key_mask=key_mask)


def check_selection(native, fused, units, valid=None):
    """Masks, mean and gradients against float64."""
    leaves = [t.double().clone().requires_grad_() for t in (fused, units)]
    flat = leaves[0] if valid is None else torch.where(valid.unsqueeze(1), leaves[0], 0)
    count = fused.size(2) if valid is None else valid.sum(1, keepdim=True).clamp(min=1)
    spatial, mean = (leaves[1] @ flat).sigmoid(), flat.sum(2) / count
    if valid is not None:
        spatial = torch.where(valid.unsqueeze(1), spatial, 0)
    ups = [noise(x.shape, units.dtype, 5 + i) for i, x in enumerate((spatial, mean))]
    truth = torch.autograd.grad((spatial, mean), leaves, [u.double() for u in ups])
    *ours, grad_fused, grad_units = runs.selection_masks(native, fused, units, valid=valid, upstream=ups)
    for x, y in zip(ours, (spatial, mean), strict=True):
        agree(x, y.detach(), units.dtype)
    agree(grad_fused, truth[0], fused.dtype), agree(grad_units, truth[1], units.dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_selection_masks(native, dtype, layout):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    native.set_device(order="shuffled", seed=1)
    shapes = ((2, 9, 35, 6),) if layout != "maps" or wide != dtype else ((1, 1, 1, 1), (1, 20, 70, 66))
    for batch, channels, positions, masks in shapes:
        fused = LAYOUTS[layout](noise((batch, channels, positions), dtype))
        check_selection(native, fused, noise((masks, channels), wide, 1) / channels)


def test_selection_masks_of_padded_maps(native):
    fused, units = noise((2, 5, 40), torch.float32), noise((3, 5), torch.float32, 1)
    valid = torch.arange(40).remainder(3).ne(1).repeat(2, 1)
    valid[1] = False
    check_selection(native, fused, units, valid)
    fused.masked_fill_(~valid.unsqueeze(1), torch.nan)
    ups = torch.ones(2, 3, 40), torch.ones(2, 5)
    results = runs.selection_masks(native, fused, units, valid=valid, upstream=ups)
    assert not any(x.isnan().any() for x in results)
