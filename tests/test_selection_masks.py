"""selection_masks: masks of a feature map by selection units."""

import pytest
import torch
from check import Case, check_op
from feature_checks import DTYPES, gradcheck, noise, refuses, works_with_pytorch

import kdfast.functional as KF
from kdfast.ops.selection_masks import selection_masks_reference

OP = "selection_masks"


def inputs(shape, masks, dtype=torch.float64):
    channels = shape[1]
    return (
        noise(shape, dtype),
        noise((masks, channels), dtype, 1) * channels**-0.5,
        noise((masks, 1), dtype, 2),
    )


def test_the_definition_by_hand():
    fused, spatial_units, channel_units = inputs((2, 3, 2, 2), 2)
    spatial, channel = selection_masks_reference(fused, spatial_units, channel_units)
    logits = sum(spatial_units[:, c, None, None] * fused[:, None, c] for c in range(3))
    torch.testing.assert_close(spatial, 1 / (1 + (-logits).exp()))
    descriptor = fused.mean((2, 3))
    expected = 1 / (1 + (-channel_units[None] * descriptor[:, None]).exp())
    torch.testing.assert_close(channel, expected)


def cases(dtype):
    rounding = 1e-12 if dtype == torch.float64 else 1e-7  # of the map's mean, where positions cancel
    for shape, masks in (
        ((0, 3, 2, 2), 2),
        ((1, 1, 1, 1), 1),
        ((2, 19, 7, 10), 19),
        ((1, 70, 13, 21), 6),
        ((2, 9, 5, 7), 7),
    ):
        yield Case(f"{shape} {masks}", inputs(shape, masks, dtype), (), {}, rounding)
    x = inputs((2, 8, 6, 5), 3, dtype)
    last = (x[0].contiguous(memory_format=torch.channels_last), *x[1:])
    yield Case("channels last", last, (), {}, rounding)
    yield Case("sliced", (torch.cat([x[0], x[0]], 3)[..., ::2], *x[1:]), (), {}, rounding)
    valid = torch.arange(30).remainder(4).ne(1).reshape(6, 5).repeat(2, 1, 1)
    valid[1] = False
    yield Case("valid", x, (), {"valid_mask": valid}, rounding)
    yield Case("far out", (30 * x[0], *x[1:]), (), {}, rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_definition(place, dtype):
    check_op(KF.selection_masks, selection_masks_reference, cases(dtype), place)


def test_many_positions(place):
    """Several runs and parts of an image."""
    shape = (1, 3, 40, 31)
    for dtype, rounding in ((torch.float32, 1e-13), (torch.float64, 1e-12)):
        case = Case("runs", inputs(shape, 2, dtype), (), {}, rounding)
        check_op(KF.selection_masks, selection_masks_reference, iter([case]), place)


def test_padding_is_harmless(place):
    fused, *units = (x.to(place) for x in inputs((2, 5, 4, 6), 3))
    valid = torch.ones(2, 4, 6, dtype=torch.bool, device=place)
    valid[0, :, 4:] = False
    expected = KF.selection_masks(fused, *units, valid_mask=valid)
    holes = fused.masked_fill(~valid.unsqueeze(1), torch.nan).requires_grad_()
    units = [x.requires_grad_() for x in units]
    ours = KF.selection_masks(holes, *units, valid_mask=valid)
    torch.testing.assert_close(ours, expected)
    assert not ours[0][0, :, :, 4:].any()
    grads = torch.autograd.grad(ours[0].sum() + ours[1].sum(), [holes, *units])
    assert all(g.isfinite().all() for g in grads)


def test_with_pytorch(place):
    fused, *units = (x.to(place) for x in inputs((2, 5, 4, 6), 3, torch.float32))

    def total(x):
        spatial, channel = KF.selection_masks(x, *units)
        return spatial.square().sum() + channel.square().sum()

    works_with_pytorch(total, fused)
    gradcheck(KF.selection_masks, *(x.to(place) for x in inputs((1, 2, 2, 2), 2)))


def test_the_ops_keep_torch_rules(need):
    """Schema, fake kernels, autograd registration and AOT dispatch of the raw ops."""
    need.backend("native", op=OP)
    fused, units, _ = inputs((2, 5, 12), 3, torch.float32)
    valid = torch.arange(12).ne(3).repeat(2, 1)
    rest = (valid, valid.sum(1).float().reciprocal())
    torch.library.opcheck(torch.ops.kdfast.selection_masks.default, (fused, units, *rest))
    spatial, mean = torch.ops.kdfast.selection_masks(fused, units, *rest)
    backward = torch.ops.kdfast.selection_masks_backward.default
    torch.library.opcheck(backward, (spatial, mean, spatial, fused, units, *rest))


def test_bad_input():
    fused, spatial, channel = inputs((2, 5, 4, 6), 3)
    call = KF.selection_masks
    refuses(TypeError, "fused must be a tensor", call, None, spatial, channel)
    refuses(TypeError, "spatial_units must be float64", call, fused, spatial.long(), channel)
    refuses(ValueError, "fused must be", call, fused[0, 0], spatial, channel)
    refuses(ValueError, "not empty", call, fused[..., :0], spatial, channel)
    refuses(ValueError, r"spatial_units must be \[masks, 5\]", call, fused, spatial[:, 1:], channel)
    refuses(ValueError, "at least one mask", call, fused, spatial[:0], channel[:0])
    refuses(ValueError, "channel_units must be", call, fused, spatial, channel[1:])
    valid = torch.ones(2, 4, 6)
    refuses(TypeError, "valid_mask must be bool", call, fused, spatial, channel, valid_mask=valid)
    refuses(ValueError, "valid_mask must be", call, fused, spatial, channel, valid_mask=valid[:, 1:].bool())
