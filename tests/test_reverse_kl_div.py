"""reverse_kl_div: its definition, the vectors, accuracy near convergence, PyTorch's transforms, bad input."""

import divergence_checks as checks
import pytest
import torch

import kdfast
import kdfast.functional as KF
from kdfast.ops.reverse_kl_div import reverse_kl_div_reference


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    checks.agrees_with_definition(KF.reverse_kl_div, reverse_kl_div_reference, place, dtype)


def test_vectors(place):
    checks.matches_vectors(KF.reverse_kl_div, "reverse_kl_div", place)


def test_accurate_near_convergence(place):
    checks.accurate_near_convergence(KF.reverse_kl_div, reverse_kl_div_reference, place)


def test_any_range(place):
    checks.survives_any_range(KF.reverse_kl_div, reverse_kl_div_reference, place)


def test_accurate_in_bfloat16(place):
    checks.accurate_in_bfloat16(KF.reverse_kl_div, place)


def test_rows_that_do_not_count(place):
    checks.handles_rows_that_do_not_count(KF.reverse_kl_div, place)


def test_works_with_pytorch(place):
    checks.works_with_pytorch(KF.reverse_kl_div, place)


def test_opcheck(need):
    need.backend("native")
    checks.passes_opcheck(torch.ops.kdfast.reverse_kl_div, "cpu", 0.0)


def test_bad_input():
    checks.refuses_bad_input(KF.reverse_kl_div)


def test_module():
    student, teacher = torch.randn(6, 9), torch.randn(6, 9)
    module = kdfast.nn.ReverseKLDivLoss(temperature=3.0)
    assert torch.equal(module(student, teacher), KF.reverse_kl_div(student, teacher, temperature=3.0))
