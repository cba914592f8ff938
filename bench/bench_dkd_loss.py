"""dkd_loss, forward and backward, against its definition, the published masks, and torch.compile of both."""

import harness
import pytest
import row_losses
import torch
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.dkd_loss import dkd_loss_reference

SIZES = [(128, 100), (1024, 1000)]


def smart(student, teacher, target):
    """The published form: sums of probabilities under masks."""
    hot = F.one_hot(target, student.size(1)).bool()
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    pair = lambda x: torch.stack(((x * hot).sum(1), (x * ~hot).sum(1)), 1)  # noqa: E731
    tckd = F.kl_div(pair(q).log(), pair(p), reduction="batchmean")
    rest_q, rest_p = (student / 4 - 1000.0 * hot).log_softmax(1), (teacher / 4 - 1000.0 * hot).softmax(1)
    return 16 * (tckd + 8 * F.kl_div(rest_q, rest_p, reduction="batchmean"))


@pytest.mark.parametrize("rows, classes", SIZES)
def test_dkd_loss(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)

    case = row_losses.case(
        "dkd_loss",
        f"{rows}x{classes}",
        student,
        (teacher, target),
        KF.dkd_loss,
        dkd_loss_reference,
        smart,
        teacher.numel() * 4,
    )
    harness.compare(case, benchmark)
