"""kl_div, forward and backward, against plain PyTorch, torch.compile, the floor, and Liger where it can
run."""

import divergences
import harness
import pytest
import torch
import torch.nn.functional as F
from harness import Provider

import kdfast.functional as KF
from kdfast.ops.kl_div import kl_div_reference


def smart(student: torch.Tensor, teacher: torch.Tensor, *, dim: int) -> torch.Tensor:
    """The best plain form: both sides as log-probabilities, in float32."""
    log_q, log_p = student.float().log_softmax(dim), teacher.float().log_softmax(dim)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / student.size(0)


def liger(student: torch.Tensor, teacher: torch.Tensor, dim: int) -> list[Provider]:
    """Liger's kernel takes log-probabilities: with the log_softmax it needs, and given them."""
    if harness.device() != "cuda" or dim != student.dim() - 1:
        return []
    try:
        from liger_kernel.transformers import LigerKLDIVLoss
    except ImportError:
        return []
    loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)
    whole = lambda s, t: loss(s.float().log_softmax(-1), t.float().log_softmax(-1))  # noqa: E731
    given = student.detach().float().log_softmax(-1).requires_grad_(), teacher.float().log_softmax(-1)
    return [
        Provider("Liger, from logits", harness.training_step(whole, student, teacher)),
        Provider("Liger, given log-probabilities", harness.training_step(loss, *given)),
    ]


@pytest.mark.parametrize("size", divergences.sizes(), ids=divergences.label)
def test_kl_div(benchmark, size):
    case = divergences.case("kl_div", size, KF.kl_div, kl_div_reference, smart)
    case.providers += liger(*divergences.pair(size[0], size[2]), size[1])
    harness.compare(case, benchmark)
