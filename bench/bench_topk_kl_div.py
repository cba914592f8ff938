"""topk_kl_div with 64 classes and a tail bucket, forward and backward, against plain PyTorch and
torch.compile.
"""

import harness
import pytest
import row_losses

import kdfast.functional as KF
from kdfast.ops.topk_kl_div import topk_kl_div_reference

SIZES = [(1024, 32000)]


def smart(student, log_probs, indices):
    """Gather, and the tail from what the chosen classes leave: less exact than the definition, but the
    fastest plain form.
    """
    log_q = student.log_softmax(-1).gather(-1, indices)
    p_rest, q_rest = 1 - log_probs.exp().sum(-1), 1 - log_q.exp().sum(-1)
    value = (log_probs.exp() * (log_probs - log_q)).sum(-1) + p_rest * (p_rest.log() - q_rest.log())
    return value.mean()


@pytest.mark.parametrize("rows, classes", SIZES)
def test_topk_kl_div(benchmark, rows, classes):
    student, teacher = row_losses.logits((rows, classes))
    target = row_losses.targets(rows, classes)
    del target
    indices = teacher.topk(64, -1).indices
    log_probs = teacher.log_softmax(-1).gather(-1, indices)
    case = row_losses.case(
        "topk_kl_div",
        f"{rows}x{classes}",
        student,
        (log_probs, indices),
        KF.topk_kl_div,
        topk_kl_div_reference,
        smart,
        0,
    )
    harness.compare(case, benchmark)
