"""dist_loss, forward and backward, against its definition, the published form, and torch.compile of both."""

import harness
import pytest
import row_losses
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.dist_loss import dist_loss_reference

SIZES = [(128, 100), (1024, 1000)]


def smart(student, teacher):
    """The published form: cosine similarities of centred probabilities, over rows and over columns."""
    q, p = student.softmax(1), teacher.softmax(1)
    centred = lambda x, dim: x - x.mean(dim, keepdim=True)  # noqa: E731
    rows = F.cosine_similarity(centred(q, 1), centred(p, 1), dim=1).mean()
    return 2 - rows - F.cosine_similarity(centred(q, 0), centred(p, 0), dim=0).mean()


@pytest.mark.parametrize("rows, classes", SIZES)
def test_dist_loss(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del target
    case = row_losses.case(
        "dist_loss",
        f"{rows}x{classes}",
        student,
        (teacher,),
        KF.dist_loss,
        dist_loss_reference,
        smart,
        teacher.numel() * 4,
    )
    harness.compare(case, benchmark)
