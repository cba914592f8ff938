"""tv_dist, forward and backward, against plain PyTorch, torch.compile and the floor."""

import divergences
import harness
import pytest
import torch

import kdfast.functional as KF
from kdfast.ops.tv_dist import tv_dist_reference


def smart(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Half the sum of |p - q|."""
    return 0.5 * (student.float().softmax(dim) - teacher.float().softmax(dim)).abs().sum() / student.size(0)


@pytest.mark.parametrize("size", divergences.sizes(), ids=divergences.label)
def test_tv_dist(benchmark, size):
    harness.compare(divergences.case("tv_dist", size, KF.tv_dist, tv_dist_reference, smart), benchmark)
