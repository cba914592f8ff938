"""focal_loss, forward and backward, against its definition, the usual plain form, and torch.compile of
both.
"""

import harness
import pytest
import row_losses
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.focal_loss import focal_loss_reference

SIZES = [(64, 4), (8192, 100), (1024, 1000)]


def smart(logits, target):
    """The usual form: p from the cross entropy."""
    loss = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


@pytest.mark.parametrize("rows, classes", SIZES)
def test_focal_loss(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del teacher
    case = row_losses.case(
        "focal_loss", f"{rows}x{classes}", student, (target,), KF.focal_loss, focal_loss_reference, smart, 0
    )
    harness.compare(case, benchmark)
