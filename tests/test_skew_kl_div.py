"""skew_kl_div: its definition, the vectors, accuracy near convergence, PyTorch's transforms, bad input."""

import math

import divergence_checks as checks
import pytest
import torch

import kdfast
import kdfast.functional as KF
from kdfast.ops.skew_kl_div import skew_kl_div_reference


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    checks.agrees_with_definition(KF.skew_kl_div, skew_kl_div_reference, place, dtype)


def test_vectors(place):
    checks.matches_vectors(KF.skew_kl_div, "skew_kl_div", place, lam=0.3)


def test_accurate_near_convergence(place):
    checks.accurate_near_convergence(KF.skew_kl_div, skew_kl_div_reference, place)


def test_any_range(place):
    checks.survives_any_range(KF.skew_kl_div, skew_kl_div_reference, place)


def test_accurate_in_bfloat16(place):
    checks.accurate_in_bfloat16(KF.skew_kl_div, place)


def test_rows_that_do_not_count(place):
    checks.handles_rows_that_do_not_count(KF.skew_kl_div, place)


def test_works_with_pytorch(place):
    checks.works_with_pytorch(KF.skew_kl_div, place)


def test_opcheck(need):
    need.backend("native")
    checks.passes_opcheck(torch.ops.kdfast.skew_kl_div, "cpu", 0.3)


def test_bad_input():
    checks.refuses_bad_input(KF.skew_kl_div)


def test_module():
    student, teacher = torch.randn(6, 9), torch.randn(6, 9)
    module = kdfast.nn.SkewKLDivLoss(temperature=3.0)
    assert torch.equal(module(student, teacher), KF.skew_kl_div(student, teacher, temperature=3.0))


def test_range():
    student, teacher = torch.randn(4, 9), torch.randn(4, 9)
    assert KF.skew_kl_div(student * 100, teacher * 100, reduction="none").max() <= -math.log(0.1)
    for lam in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"lam must be in \(0, 1\)"):
            KF.skew_kl_div(student, teacher, lam=lam)
