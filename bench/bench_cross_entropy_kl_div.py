"""cross_entropy_kl_div at T = 4, both values summed, forward and backward, against plain PyTorch and
torch.compile.
"""

import harness
import pytest
import row_losses
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.cross_entropy_kl_div import cross_entropy_kl_div_reference

SIZES = [(256, 1000), (4096, 1000), (256, 32000)]


def both(function):
    """0.1 ce + 0.9 kl of a function that gives the two."""

    def loss(student, teacher, target):
        ce, kl = function(student, teacher, target, temperature=4.0)
        return 0.1 * ce + 0.9 * kl

    return loss


def smart(student, teacher, target):
    """What training loops write."""
    log_q, log_p = (student / 4).log_softmax(-1), (teacher / 4).log_softmax(-1)
    kl = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * 16
    return 0.1 * F.cross_entropy(student, target) + 0.9 * kl


@pytest.mark.parametrize("rows, classes", SIZES)
def test_cross_entropy_kl_div(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)

    case = row_losses.case(
        "cross_entropy_kl_div",
        f"{rows}x{classes}",
        student,
        (teacher, target),
        both(KF.cross_entropy_kl_div),
        both(cross_entropy_kl_div_reference),
        smart,
        teacher.numel() * 4,
    )
    harness.compare(case, benchmark)
