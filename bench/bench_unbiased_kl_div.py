"""unbiased_kl_div, forward and backward, against its definition, the published form, and torch.compile of
both.
"""

import harness
import pytest
import row_losses
import torch

import kdfast.functional as KF
from kdfast.ops.unbiased_kl_div import unbiased_kl_div_reference

SIZES = [(256, 21), (4096, 91)]


def smart(student, teacher):
    """The published form."""
    known = teacher.size(1)
    lse = student.logsumexp(1, keepdim=True)
    background = torch.cat((student[:, :1], student[:, known:]), 1).logsumexp(1, keepdim=True)
    log_p = torch.cat((background - lse, student[:, 1:known] - lse), 1)
    return -(teacher.softmax(1) * log_p).mean()


@pytest.mark.parametrize("rows, classes", SIZES)
def test_unbiased_kl_div(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del target
    new = classes // 5
    teacher = teacher[:, : classes - new].contiguous()
    ours = lambda s, t: KF.unbiased_kl_div(s, t, num_new=new)  # noqa: E731
    plain = lambda s, t: unbiased_kl_div_reference(s, t, num_new=new)  # noqa: E731
    case = row_losses.case(
        "unbiased_kl_div", f"{rows}x{classes}", student, (teacher,), ours, plain, smart, teacher.numel() * 4
    )
    harness.compare(case, benchmark)
