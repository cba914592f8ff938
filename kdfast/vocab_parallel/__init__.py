"""Losses of logits whose classes are spread over ranks (tensor parallelism): no rank sees a whole row.

    loss = kdfast.vocab_parallel.kl_div(student_shard, teacher_shard, group=group)

Every rank calls with its own classes, in the order of the ranks, and gets the same loss and the gradient
of its own shard. What travels are a few numbers a row: maxima, sums of exponentials and of differences (pass
1 of csrc/common/divergence.h, whose parts merge by maximum and addition), then the value and the formula's
own sum; for a target, its logit and the sum of the others. A DTensor sharded on its class dimension is taken
as it is: its mesh dimension is the group, and kdfast.functional's function of the same name comes here.

Plain PyTorch with the accuracy of the fused kernels: log sums of student and teacher are taken from each
other by log1p of a sum of differences where the two are near, and 1 - q is the sum of the others. First
derivatives only.

Source of the scheme: Shoeybi et al., "Megatron-LM", 2019, arXiv 1909.08053, section 3 (vocabulary-parallel
cross entropy); of each loss: kdfast.functional.
"""

from kdfast.vocab_parallel._divergences import js_div, kl_div, reverse_kl_div, skew_kl_div, tv_dist
from kdfast.vocab_parallel._row_losses import cross_entropy_kl_div, focal_loss, soft_cross_entropy
from kdfast.vocab_parallel._topk import topk_kl_div

__all__ = [
    "cross_entropy_kl_div",
    "focal_loss",
    "js_div",
    "kl_div",
    "reverse_kl_div",
    "skew_kl_div",
    "soft_cross_entropy",
    "topk_kl_div",
    "tv_dist",
]
