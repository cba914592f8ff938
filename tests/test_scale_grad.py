"""scale_grad_: in place, in any dtype, and not at all for a factor of 1."""

import pytest
import torch

from kdfast import backend
from kdfast.ops.scale_grad import scale_grad_reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [0, 1, 7, 4095, 4096, 4097, 10000])
def test_scales_in_place(place, dtype, n):
    if backend.of(torch.empty(0, device=place)) == "reference":
        return  # the reference is what the others are compared with
    ops = backend.ops(backend.of(torch.empty(0, device=place)))
    grad = torch.randn(n, device=place).to(dtype)
    for factor in (1.0, -2.5):
        by = torch.tensor(
            factor, device=place, dtype=torch.float64 if dtype == torch.float64 else torch.float32
        )
        expected = scale_grad_reference(grad, by)
        ops.scale_grad_(grad, by)
        assert torch.equal(grad, expected)


def test_layouts(need):
    need.backend("native")
    for grad in (torch.randn(3, 4).t(), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        expected = grad * 3
        torch.ops.kdfast.scale_grad_(grad, torch.tensor(3.0))
        assert torch.equal(grad, expected)
    with pytest.raises(ValueError, match="fill its memory without gaps"):
        torch.ops.kdfast.scale_grad_(torch.randn(4, 6)[:, ::2], torch.tensor(3.0))


def test_opcheck(need):
    need.backend("native")
    torch.library.opcheck(torch.ops.kdfast.scale_grad_, (torch.randn(5), torch.tensor(2.0)))
