"""Offsets beyond 32 bits: every loss's kernels on inputs and gradients whose ends lie more than 2^31 elements
apart, in each dimension, give what they give on dense ones. The divergences are in test_native_cuda.py.
"""

import pytest
import torch
from native import mask_runs
from native.feature_runs import far
from test_native_gradients import attention_losses, feature_losses, pair_losses, randn, row_losses


def row_losses_of_7(native, seed):
    return row_losses(native, 7)


@pytest.mark.parametrize("losses", [row_losses_of_7, feature_losses, pair_losses, attention_losses])
def test_losses(native, losses):
    for name, (inputs, loss) in losses(native, 0).items():
        value, grads = loss(*inputs)
        for i, x in enumerate(inputs):
            for dim in (d for d in range(x.dim()) if x.size(d) > 1):
                if name.startswith("selection") and i == 1:
                    continue  # the units are dense by contract
                apart = [*inputs[:i], far(x, dim), *inputs[i + 1 :]]
                ours, grads_apart = loss(*apart)
                torch.testing.assert_close(ours, value, rtol=1e-12, atol=0, msg=f"{name} {i} {dim}")
                for a, b in zip(grads_apart, grads, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-14, msg=f"{name} {i} {dim}")


@pytest.mark.parametrize("dim", [0, 1])
def test_class_sums(native, dim):
    x, target = randn(6, 5, seed=0), torch.arange(6) % 3
    expected = mask_runs.class_sums(native, x, target, 3)
    assert torch.equal(mask_runs.class_sums(native, far(x, dim), target, 3)[0], expected[0])


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_random_mask(native, dim):
    x, state = randn(2, 6, 5, seed=0), torch.tensor([1, 2])
    for by_inner in (False, True):
        expected = mask_runs.random_mask(native, x, state, 0.5, by_inner)
        assert torch.equal(mask_runs.random_mask(native, far(x, dim), state, 0.5, by_inner), expected)
