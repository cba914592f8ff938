"""js_div, forward and backward, against plain PyTorch, torch.compile and the floor."""

import divergences
import harness
import pytest
import torch

import kdfast.functional as KF
from kdfast.ops.js_div import js_div_reference


def smart(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """As TRL computes it: the mixture by logaddexp, two kl_div."""
    log_q, log_p = student.float().log_softmax(dim), teacher.float().log_softmax(dim)
    log_m = torch.logaddexp(log_p, log_q) - 0.6931471805599453
    kl = torch.nn.functional.kl_div
    halves = (kl(log_m, side, reduction="sum", log_target=True) for side in (log_p, log_q))
    return 0.5 * sum(halves) / student.size(0)


@pytest.mark.parametrize("size", divergences.sizes(), ids=divergences.label)
def test_js_div(benchmark, size):
    harness.compare(divergences.case("js_div", size, KF.js_div, js_div_reference, smart), benchmark)
