"""reverse_kl_div, forward and backward, against plain PyTorch, torch.compile and the floor."""

import divergences
import harness
import pytest
import torch

import kdfast.functional as KF
from kdfast.ops.reverse_kl_div import reverse_kl_div_reference


def smart(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """The best plain form: both sides as log-probabilities, in float32."""
    log_q, log_p = student.float().log_softmax(dim), teacher.float().log_softmax(dim)
    return torch.nn.functional.kl_div(log_p, log_q, reduction="sum", log_target=True) / student.size(0)


@pytest.mark.parametrize("size", divergences.sizes(), ids=divergences.label)
def test_reverse_kl_div(benchmark, size):
    harness.compare(
        divergences.case("reverse_kl_div", size, KF.reverse_kl_div, reverse_kl_div_reference, smart),
        benchmark,
    )
