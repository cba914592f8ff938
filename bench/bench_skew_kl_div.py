"""skew_kl_div, forward and backward, against plain PyTorch, torch.compile and the floor."""

import divergences
import harness
import pytest
import torch

import kdfast.functional as KF
from kdfast.ops.skew_kl_div import skew_kl_div_reference


def smart(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """The mixture in probabilities, one logarithm."""
    q, log_p = student.float().softmax(dim), teacher.float().log_softmax(dim)
    p = log_p.exp()
    return (p * (log_p - torch.log(0.1 * p + 0.9 * q))).sum() / student.size(0)


@pytest.mark.parametrize("size", divergences.sizes(), ids=divergences.label)
def test_skew_kl_div(benchmark, size):
    harness.compare(
        divergences.case("skew_kl_div", size, KF.skew_kl_div, skew_kl_div_reference, smart), benchmark
    )
