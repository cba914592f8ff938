"""A row of NaN alone, as a diverged student gives it, is not a row of impossible classes: it shows."""

import pytest
import torch

import kdfast.functional as KF

NAN = float("nan")
TARGET = torch.tensor([0, 1, 2])
LOSSES = {
    "kl_div": lambda s, t: KF.kl_div(s, t),
    "reverse_kl_div": lambda s, t: KF.reverse_kl_div(s, t),
    "js_div": lambda s, t: KF.js_div(s, t),
    "skew_kl_div": lambda s, t: KF.skew_kl_div(s, t),
    "tv_dist": lambda s, t: KF.tv_dist(s, t),
    "cross_entropy_kl_div, ce": lambda s, t: KF.cross_entropy_kl_div(s, t, TARGET)[0],
    "cross_entropy_kl_div, kl": lambda s, t: KF.cross_entropy_kl_div(s, t, TARGET)[1],
    "soft_cross_entropy": lambda s, t: KF.soft_cross_entropy(s, t.softmax(-1)),
    "dkd_loss": lambda s, t: KF.dkd_loss(s, t, TARGET),
    "dist_loss": lambda s, t: KF.dist_loss(s, t),
    "focal_loss": lambda s, t: KF.focal_loss(s, TARGET),
    "topk_kl_div": lambda s, t: KF.topk_kl_div(s, *t.log_softmax(-1).topk(2)),
    "unbiased_kl_div": lambda s, t: KF.unbiased_kl_div(s, t[:, :-1], num_new=1),
    "unbiased_cross_entropy": lambda s, t: KF.unbiased_cross_entropy(s, TARGET + 2, num_old=1),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [5, 40])
def test_a_row_of_nan_shows_in_value_and_gradient(name, classes):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, classes, generator=generator) for _ in range(2))
    student[1] = NAN
    student.requires_grad_()
    value = LOSSES[name](student, teacher)
    assert value.isnan()
    (grad,) = torch.autograd.grad(value, student)
    assert grad[1].isnan().all() and (name == "dist_loss" or grad[[0, 2]].isfinite().all())
