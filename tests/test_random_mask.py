"""random_mask: a map times a mask that is never in memory."""

import pytest
import torch
from feature_checks import DTYPES, noise, refuses, value_and_grads, works_with_pytorch

import kdfast.functional as KF
from kdfast.ops.random_mask import philox, random_mask_reference

OP = "random_mask"


def test_philox_is_the_published_one():
    """Known answers of Random123: counter and key of zeros, and of ones."""
    zero = philox(torch.tensor([0]), torch.tensor([0, 0]))
    ones = philox(torch.tensor([-1]), torch.tensor([-1, -1]))
    assert zero.item() == 0x6627E8D5 and ones.item() == 0x408F276D


def test_random_mask(place):
    x, state = noise((4, 8, 30, 40), torch.float32).to(place), torch.tensor([5, 7], device=place)
    for over, kept_shape in (("positions", (4, 1, 30, 40)), ("channels", (4, 8, 1, 1))):
        y, (grad,) = (
            KF.random_mask(x, 0.65, over=over, state=state),
            torch.autograd.grad(KF.random_mask(x.requires_grad_(), 0.65, over=over, state=state).sum(), x),
        )
        assert torch.equal(y, random_mask_reference(x, state, 0.65, over)) and torch.equal(grad != 0, y != 0)
        kept = (y != 0).any(1, keepdim=True) if over == "positions" else (y != 0).any((2, 3), keepdim=True)
        assert kept.shape == kept_shape and torch.equal(y, x * kept)
        if over == "positions":
            assert abs(kept.float().mean() - 0.35) < 0.02
    assert torch.equal(KF.random_mask(x, 0.0), x) and not KF.random_mask(x, 1.0).any()
    torch.manual_seed(3)
    first = KF.random_mask(x, 0.5)
    assert not torch.equal(first, KF.random_mask(x, 0.5))
    torch.manual_seed(3)
    assert torch.equal(first, KF.random_mask(x, 0.5))


def test_random_mask_dtypes_and_strides(place):
    state = torch.tensor([1, 2], device=place)
    for dtype in DTYPES:
        x = noise((2, 5, 6, 8), dtype).to(place).to(memory_format=torch.channels_last)[..., ::2]
        assert torch.equal(KF.random_mask(x, 0.5, state=state), random_mask_reference(x, state, 0.5))
    works_with_pytorch(
        lambda x: KF.random_mask(x, 0.5, state=state).square().sum(),
        noise((2, 3, 4, 4), torch.float32).to(place),
    )


LAYOUTS = {
    "maps": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x], 3)[..., ::2],
    "turned": lambda x: x.mT.contiguous().mT,
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", ["positions", "channels"])
def test_every_backend_and_layout_draws_the_same_mask(place, over, layout):
    for shape in ((1, 1, 1, 1), (2, 70, 3, 5), (1, 3, 40, 60)):
        for dtype in DTYPES:
            x, state = LAYOUTS[layout](noise(shape, dtype)).to(place), torch.tensor([2**61 + 5, 2**40 + 7])
            call = lambda x, s: KF.random_mask(x, 0.4, over=over, state=s)  # noqa: E731
            value, (grad,) = value_and_grads(lambda x, c=call, s=state: c(x, s.to(place)).sum(), x)
            expected = random_mask_reference(x.cpu(), state, 0.4, over)
            assert torch.equal(call(x, state.to(place)).cpu(), expected)
            kept = random_mask_reference(torch.ones(shape), state, 0.4, over)
            assert torch.equal(grad.cpu(), kept.to(dtype)) and grad.dtype == dtype


def test_vectors_and_what_is_dropped_may_be_nan(place):
    x, state = torch.full((3, 40), torch.nan, device=place), torch.tensor([1, 2], device=place)
    y = KF.random_mask(x, 1.0, over="channels", state=state)
    assert not y.any() and y.shape == x.shape
    assert KF.random_mask(torch.zeros(0, 3, 4, device=place), 0.5).shape == (0, 3, 4)


def test_opcheck(need):
    need.backend("native")
    x, state = noise((2, 3, 5), torch.float32), torch.tensor([1, 2])
    torch.library.opcheck(torch.ops.kdfast.random_mask.default, (x, state, 2**31, False))


def test_bad_input():
    x = torch.rand(2, 3, 4, 4)
    refuses(ValueError, "ratio must be", KF.random_mask, x, 1.5)
    refuses(ValueError, "over must be", KF.random_mask, x, 0.5, over="pixels")
    refuses(TypeError, "state must hold integers", KF.random_mask, x, 0.5, state=torch.rand(2))
