"""How the Triton kernels find an element: dims that merge, offsets of 64 bits."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    from kdfast.triton_kernels import rows
    from kdfast.triton_kernels.common import element_offset

    @triton.jit
    def offset_probe(out, sizes, strides):
        index = tl.arange(0, 8)
        tl.store(out + index, element_offset(index, sizes, strides))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_merged_dims_reach_the_same_elements(need, data):
    """merge_dims and a row-major walk over what it leaves: the offsets of the original dims, in order."""
    need.module("triton")
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=5))
    choices = [data.draw(st.permutations(range(len(sizes)))) for _ in range(2)]
    strides = []
    for order in choices:
        step, found = data.draw(st.sampled_from((0, 1, 2))), [0] * len(sizes)
        for d in order:
            found[d] = step
            step *= sizes[d] + data.draw(st.sampled_from((0, 0, 0, 1)))
        strides.append(tuple(found))
    merged, steps = rows.merge_dims(tuple(sizes), tuple(strides))
    assert len(merged) <= max(len(sizes), 1)
    for before, after in zip(strides, steps, strict=True):
        wanted = [sum(i * s for i, s in zip(index, before, strict=True)) for index in np.ndindex(*sizes)]
        reached = [sum(i * s for i, s in zip(index, after, strict=True)) for index in np.ndindex(*merged)]
        assert wanted == reached


def test_offsets_have_64_bits(triton_device):
    out = torch.empty(8, dtype=torch.int64, device=triton_device)
    offset_probe[(1,)](out, (2, 4), (3 * 2**31, 2**32 + 1))
    assert out.tolist() == [i // 4 * 3 * 2**31 + i % 4 * (2**32 + 1) for i in range(8)]
