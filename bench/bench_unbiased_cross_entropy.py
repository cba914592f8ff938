"""unbiased_cross_entropy, forward and backward, against its definition, the published form, and
torch.compile.
"""

import harness
import pytest
import row_losses
import torch
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.unbiased_cross_entropy import unbiased_cross_entropy_reference

SIZES = [(512, 21), (8192, 91)]


def smart(logits, target):
    """The published form: old classes get the log-probability 0."""
    old = logits.size(1) * 3 // 4
    lse = logits.logsumexp(1, keepdim=True)
    background = logits[:, : old + 1].logsumexp(1, keepdim=True) - lse
    out = torch.cat((background, torch.zeros_like(logits[:, 1 : old + 1]), logits[:, old + 1 :] - lse), 1)
    return F.nll_loss(out, target)


@pytest.mark.parametrize("rows, classes", SIZES)
def test_unbiased_cross_entropy(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del teacher
    old = classes * 3 // 4
    ours = lambda x, y: KF.unbiased_cross_entropy(x, y, num_old=old)  # noqa: E731
    plain = lambda x, y: unbiased_cross_entropy_reference(x, y, num_old=old)  # noqa: E731
    case = row_losses.case(
        "unbiased_cross_entropy", f"{rows}x{classes}", student, (target,), ours, plain, smart, 0
    )
    harness.compare(case, benchmark)
