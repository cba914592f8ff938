"""soft_cross_entropy, forward and backward, against F.cross_entropy with probabilities and torch.compile."""

import harness
import pytest
import row_losses
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.soft_cross_entropy import soft_cross_entropy_reference

SIZES = [(256, 1000), (1024, 32000)]


def smart(student, probs):
    """PyTorch's own."""
    return F.cross_entropy(student, probs)


@pytest.mark.parametrize("rows, classes", SIZES)
def test_soft_cross_entropy(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del target
    probs = teacher.softmax(-1)
    case = row_losses.case(
        "soft_cross_entropy",
        f"{rows}x{classes}",
        student,
        (probs,),
        KF.soft_cross_entropy,
        soft_cross_entropy_reference,
        smart,
        teacher.numel() * 4,
    )
    harness.compare(case, benchmark)
